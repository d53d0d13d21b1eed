// The panel plugins' field options, by name: the plugins themselves are part of Grafana's application.
import { FieldConfigProperty, PanelPlugin, identityOverrideProcessor } from '@grafana/data';

const CURVES = [
  'axisBorderShow', 'axisCenteredZero', 'axisColorMode', 'axisGridShow', 'axisLabel', 'axisPlacement', 'axisSoftMax',
  'axisSoftMin', 'axisWidth', 'barAlignment', 'barMaxWidth', 'barWidthFactor', 'drawStyle', 'fillBelowTo', 'fillColor',
  'fillOpacity', 'gradientMode', 'hideFrom', 'insertNulls', 'lineColor', 'lineInterpolation', 'lineStyle', 'lineWidth',
  'pointColor', 'pointSize', 'pointSymbol', 'scaleDistribution', 'showPoints', 'spanNulls', 'stacking',
  'thresholdsStyle', 'transform',
];
const CELLS = ['align', 'cellOptions', 'filterable', 'hideFrom', 'inspect', 'minWidth', 'width', 'wrapHeaderText', 'wrapText'];

export const plugins = {
  timeseries: makePlugin('timeseries', CURVES),
  trend: makePlugin('trend', CURVES),
  table: makePlugin('table', CELLS),
};

/** Show a panel with a component, in a browser. */
export function drawWith(id, component) {
  plugins[id].setComponent?.(component);
  plugins[id].panel = component;
}

function makePlugin(id, options) {
  const plugin = new PanelPlugin(() => null);
  const byPalette = { [FieldConfigProperty.Color]: { settings: { byValueSupport: true }, defaultValue: { mode: 'palette-classic' } } };
  plugin.useFieldConfig({
    standardOptions: options === CURVES ? byPalette : {},
    useCustomConfig: (builder) => {
      for (const option of options) {
        builder.addCustomEditor({
          id: option,
          path: option,
          name: option,
          editor: () => null,
          override: () => null,
          process: identityOverrideProcessor,
          shouldApply: () => true,
        });
      }
    },
  });
  plugin.meta = { id, name: id, type: 'panel', module: '', baseUrl: '', info: { logos: {}, author: {}, links: [], screenshots: [] } };
  return plugin;
}
