// A dashboard file as a scene: the objects that Grafana makes of it when it is opened.
import {
  CustomVariable,
  DataSourceVariable,
  EmbeddedScene,
  QueryVariable,
  SceneControlsSpacer,
  SceneDataLayerControls,
  SceneDataLayerSet,
  SceneDataTransformer,
  SceneGridItem,
  SceneGridLayout,
  SceneGridRow,
  SceneQueryRunner,
  SceneRefreshPicker,
  SceneTimePicker,
  SceneTimeRange,
  SceneVariableSet,
  VariableValueSelectors,
  VizPanel,
  dataLayers,
} from '@grafana/scenes';

const POINTS = 700; // the width in pixels of half a screen, of which Grafana makes the number of points

/** The scene of a dashboard over a range, with some of its variables set; and its panels, those of closed rows too. */
export function makeScene(dashboard, { from, to, variables = {} }) {
  const panels = [];
  const rows = grouped(dashboard.panels).map(({ row, members }) => {
    const items = members.map((json) => {
      const panel = makePanel(json);
      panels.push(panel);
      const { x, y, w: width, h: height } = json.gridPos;
      return new SceneGridItem({ x, y, width, height, body: panel.viz });
    });
    return row ? [new SceneGridRow({ title: row.title, y: row.gridPos.y, isCollapsed: row.collapsed, children: items })] : items;
  });
  const annotations = (dashboard.annotations?.list ?? []).map(
    (query) => new dataLayers.AnnotationsDataLayer({ name: query.name, isEnabled: query.enable, query })
  );
  const scene = new EmbeddedScene({
    $timeRange: new SceneTimeRange({ from, to, timeZone: dashboard.timezone }),
    $variables: new SceneVariableSet({ variables: (dashboard.templating?.list ?? []).map((each) => makeVariable(each, variables[each.name])) }),
    $data: new SceneDataLayerSet({ layers: annotations }),
    controls: [
      new VariableValueSelectors({}),
      ...(annotations.length ? [new SceneDataLayerControls()] : []),
      new SceneControlsSpacer(),
      new SceneTimePicker({}),
      new SceneRefreshPicker({ refresh: '' }),
    ],
    body: new SceneGridLayout({ children: rows.flat() }),
  });
  return { scene, panels, annotations };
}

/** Panels by the row they belong to: one that is closed has them inside, one that is open has them behind it. */
function grouped(panels) {
  const groups = [{ row: null, members: [] }];
  for (const panel of panels) {
    if (panel.type === 'row') {
      groups.push({ row: panel, members: [...(panel.panels ?? [])] });
    } else {
      groups.at(-1).members.push(panel);
    }
  }
  return groups;
}

function makePanel(json) {
  const runner = new SceneQueryRunner({
    datasource: json.datasource,
    queries: json.targets,
    maxDataPoints: json.maxDataPoints ?? POINTS,
    minInterval: json.interval,
  });
  const data = new SceneDataTransformer({ $data: runner, transformations: json.transformations ?? [] });
  const viz = new VizPanel({
    key: `panel-${json.id}`,
    title: json.title,
    description: json.description,
    pluginId: json.type,
    options: json.options ?? {},
    fieldConfig: { defaults: {}, overrides: [], ...json.fieldConfig },
    $data: data,
  });
  return { json, runner, data, viz };
}

const KINDS = { datasource: DataSourceVariable, query: QueryVariable, custom: CustomVariable };

function makeVariable(json, chosen) {
  const current = chosen === undefined ? json.current : { value: chosen, text: chosen };
  const { type, current: _, options: __, multi: isMulti, ...rest } = json;
  const settings = { ...rest, isMulti, value: current?.value ?? '', text: current?.text ?? '' };
  return new KINDS[type](type === 'datasource' ? { ...settings, pluginId: json.query } : settings);
}
