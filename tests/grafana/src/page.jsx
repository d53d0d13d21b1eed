// Draws a dashboard in a browser with Grafana's scenes and components; `window.openDashboard` is called with a job.
import '@grafana/ui';
import { createRoot } from 'react-dom/client';
import { cacheFieldDisplayNames, FieldType, getFieldDisplayName, ThemeContext } from '@grafana/data';
import { config, LocationServiceProvider, locationService } from '@grafana/runtime';
import { GlobalStyles, TimeSeries } from '@grafana/ui';
import { TableNG } from '@grafana/ui/unstable';
import { BrowserRouter } from 'react-router-dom';
import { CompatRouter } from 'react-router-dom-v5-compat';
import { startGrafana } from './grafana.mjs';
import { drawWith } from './panels.mjs';
import { makeScene } from './scene.mjs';

// What Grafana's panels assume where a dashboard says nothing.
const CURVE = {
  drawStyle: 'line',
  lineInterpolation: 'linear',
  lineWidth: 1,
  fillOpacity: 0,
  gradientMode: 'none',
  showPoints: 'auto',
  pointSize: 5,
  axisPlacement: 'auto',
  axisColorMode: 'text',
  axisBorderShow: false,
  axisCenteredZero: false,
  barAlignment: 0,
  scaleDistribution: { type: 'linear' },
  hideFrom: { legend: false, tooltip: false, viz: false },
  stacking: { mode: 'none', group: 'A' },
  thresholdsStyle: { mode: 'off' },
};

function Curves({ data, width, height, timeRange, fieldConfig, options, byNumber }) {
  const frames = drawable(data.series, byNumber && options.xField);
  if (!frames.length) {
    return <Empty text={fieldConfig.defaults.noValue} />;
  }
  const fields = byNumber && {
    x: (field, frame) => frame.fields[0] === field,
    y: (field, frame) => frame.fields[0] !== field && field.type === FieldType.number,
  };
  const legend = { showLegend: true, displayMode: 'list', placement: 'bottom', ...options.legend };
  return (
    <TimeSeries
      frames={frames}
      timeRange={timeRange}
      timeZone="utc"
      width={width}
      height={height}
      legend={legend}
      options={{}}
      structureRev={1}
      fields={fields || undefined}
    />
  );
}

/** Frames with an x field in front and defaults filled in; series are numbered without it, as their colours are. */
function drawable(series, xField) {
  let index = 0;
  return series
    .filter(({ fields, length }) => length && fields.some(({ type }) => type === FieldType.number))
    .map((frame) => {
      const isX = (field) => (xField ? getFieldDisplayName(field, frame, series) === xField : field.type === FieldType.time);
      const ordered = [...frame.fields.filter(isX), ...frame.fields.filter((field) => !isX(field) && field.type === FieldType.number)];
      const fields = ordered.map((field) => ({
        ...field,
        values: field.values.map((value) => (Number.isFinite(value) ? value : null)),
        config: { ...field.config, custom: { ...CURVE, ...field.config.custom } },
        state: { ...field.state, seriesIndex: isX(field) ? undefined : index++ },
      }));
      return { ...frame, fields };
    });
}

function Table({ data, width, height, fieldConfig }) {
  const [frame] = data.series;
  if (!frame?.fields.length) {
    return <Empty text={fieldConfig.defaults.noValue} />;
  }
  cacheFieldDisplayNames(data.series);
  return (
    <TableNG
      data={frame}
      width={width}
      height={height}
      fieldConfig={fieldConfig}
      noValue={fieldConfig.defaults.noValue}
      getActions={() => []}
      structureRev={1}
      disableSanitizeHtml={false}
    />
  );
}

const Empty = ({ text }) => <div style={{ padding: 24, textAlign: 'center', color: '#999' }}>{text ?? 'No data'}</div>;

drawWith('timeseries', Curves);
drawWith('trend', (properties) => <Curves {...properties} byNumber />);
drawWith('table', Table);

window.openDashboard = ({ prometheus, dashboard, from, to, variables }) => {
  const log = [];
  startGrafana(prometheus, log);
  const { scene, panels } = makeScene(dashboard, { from, to, variables });
  window.__grafanaSceneContext = scene;
  window.bench = { panels, log };
  const theme = config.theme2;
  const style = { padding: 12, background: theme.colors.background.canvas, minHeight: '100vh' };
  createRoot(document.body.appendChild(document.createElement('div'))).render(
    <ThemeContext.Provider value={theme}>
      <LocationServiceProvider service={locationService}>
        <BrowserRouter>
          <CompatRouter>
            <GlobalStyles />
            <div style={style}>
              <h3>{dashboard.title}</h3>
              <scene.Component model={scene} />
            </div>
          </CompatRouter>
        </BrowserRouter>
      </LocationServiceProvider>
    </ThemeContext.Provider>
  );
};
