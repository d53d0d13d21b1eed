// Wires Grafana's packages to each other as its application does: services, transformations, field options, themes.
import { catchError, map } from 'rxjs/operators';
import { of } from 'rxjs';
import {
  EventBusSrv,
  LoadingState,
  booleanOverrideProcessor,
  createTheme,
  dataLinksOverrideProcessor,
  displayNameOverrideProcessor,
  getProcessedDataFrames,
  identityOverrideProcessor,
  numberOverrideProcessor,
  standardFieldConfigEditorRegistry,
  standardTransformers,
  standardTransformersRegistry,
  stringOverrideProcessor,
  thresholdsOverrideProcessor,
  unitOverrideProcessor,
  valueMappingsOverrideProcessor,
} from '@grafana/data';
import {
  config,
  setAppEvents,
  setBackendSrv,
  setDataSourceSrv,
  setEchoSrv,
  setPluginImportUtils,
  setRunRequest,
  setTemplateSrv,
} from '@grafana/runtime';
import { sceneGraph } from '@grafana/scenes';
// Not by the packages' main entries: these pull in editors, or do not export it.
import { PrometheusDatasource } from '../node_modules/@grafana/prometheus/dist/esm/datasource.mjs';
import { initDataSourceInstanceSettings } from '../node_modules/@grafana/runtime/dist/esm/services/dataSource/settings.mjs';
import { makeBackend } from './backend.mjs';
import { plugins } from './panels.mjs';

const SETTINGS = {
  id: 1,
  uid: 'prometheus',
  type: 'prometheus',
  name: 'Prometheus',
  url: '/proxy',
  access: 'proxy',
  isDefault: true,
  readOnly: true,
  meta: { id: 'prometheus', name: 'Prometheus', type: 'datasource', module: '', baseUrl: '', metrics: true, info: { logos: {} } },
  jsonData: { httpMethod: 'POST', timeInterval: '5s' },
};

const FIELD_OPTIONS = {
  unit: unitOverrideProcessor,
  min: numberOverrideProcessor,
  max: numberOverrideProcessor,
  fieldMinMax: booleanOverrideProcessor,
  decimals: numberOverrideProcessor,
  displayName: displayNameOverrideProcessor,
  noValue: stringOverrideProcessor,
  color: identityOverrideProcessor,
  thresholds: thresholdsOverrideProcessor,
  mappings: valueMappingsOverrideProcessor,
  links: dataLinksOverrideProcessor,
  actions: identityOverrideProcessor,
  filterable: booleanOverrideProcessor,
};

// By id, because one of them is there twice.
const transformers = Object.fromEntries(Object.values(standardTransformers).map((each) => [each.id, each]));

/** Transformations that Grafana's packages have; it passes over any other without a word. */
export const transformations = new Set(Object.keys(transformers));

/** Start the services for one Prometheus; `log` is told of every query. */
export function startGrafana(prometheus, log) {
  config.theme2 = createTheme({ colors: { mode: 'dark' } });
  config.featureToggles ??= {};
  setBackendSrv(makeBackend(prometheus, log));
  setEchoSrv({ addEvent() {}, addBackend() {}, flush() {} });
  setAppEvents(new EventBusSrv());
  setTemplateSrv({
    replace: interpolated,
    getVariables: () => [],
    containsTemplate: (text) => /\$|\[\[/.test(text ?? ''),
    updateTimeRange() {},
    getAdhocFilters: () => [],
  });
  initDataSourceInstanceSettings({ [SETTINGS.name]: SETTINGS }, SETTINGS.name);
  const source = new PrometheusDatasource(SETTINGS);
  setDataSourceSrv({
    get: async () => source,
    getInstanceSettings: (reference) => ({ ...SETTINGS, rawRef: reference ?? { type: SETTINGS.type, uid: SETTINGS.uid } }),
    getList: () => [SETTINGS],
    reload() {},
    registerRuntimeDataSource() {},
  });
  setRunRequest(runRequest);
  setPluginImportUtils({
    importPanelPlugin: async (id) => plugins[id],
    getPanelPluginFromCache: (id) => plugins[id],
  });
  standardTransformersRegistry.setInit(() =>
    Object.values(transformers).map((each) => ({ ...each, transformation: () => each, editor: () => null }))
  );
  standardFieldConfigEditorRegistry.setInit(() =>
    Object.entries(FIELD_OPTIONS).map(([id, process]) => ({
      id,
      path: id,
      name: id,
      process,
      editor: () => null,
      override: () => null,
      settings: {},
      shouldApply: () => true,
    }))
  );
}

function interpolated(text, scopedVars, format) {
  const scene = scopedVars?.__sceneObject?.value?.valueOf?.() ?? window.__grafanaSceneContext;
  return text && scene ? sceneGraph.interpolate(scene, text, scopedVars, format) : (text ?? '');
}

function runRequest(source, request, queryFunction) {
  const answers = queryFunction ? queryFunction(request) : source.query(request);
  const common = { request, timeRange: request.range };
  return answers.pipe(
    map(({ data, error, errors }) => ({
      ...common,
      state: error || errors?.length ? LoadingState.Error : LoadingState.Done,
      // The values of a variable are no frames.
      series: data?.[0]?.fields ? getProcessedDataFrames(data) : (data ?? []),
      error: error ?? errors?.[0],
    })),
    catchError((error) => of({ ...common, state: LoadingState.Error, series: [], error: { message: String(error) } }))
  );
}
