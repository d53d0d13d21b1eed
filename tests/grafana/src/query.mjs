// Opens dashboards as Grafana does and writes what every panel is given to draw.
//
//   node built/query.cjs < jobs.json > answers.jsonl
//
// jobs.json: {prometheus, jobs: [{dashboard: path, from, to, variables: {name: value}, titles: of some panels only}]}
import fs from 'node:fs';
import { FieldType, LoadingState, fieldMatchers, formattedValueToString, getFieldDisplayName } from '@grafana/data';
import { startGrafana, transformations } from './grafana.mjs';
import { makeScene } from './scene.mjs';

const PATIENCE_MS = 60_000;

const { prometheus, jobs } = JSON.parse(fs.readFileSync(0, 'utf8'));
const log = [];
startGrafana(prometheus, log);

run().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  }
);

async function run() {
  for (const job of jobs) {
    fs.writeSync(1, JSON.stringify(await answer(job)) + '\n');
  }
}

async function answer(job) {
  log.length = 0;
  const begun = performance.now();
  const dashboard = JSON.parse(fs.readFileSync(job.dashboard, 'utf8'));
  if (job.titles) {
    dashboard.panels = dashboard.panels.filter(({ title }) => job.titles.includes(title));
  }
  const { scene, panels, annotations } = makeScene(dashboard, job);
  window.__grafanaSceneContext = scene;
  const deactivate = activated(scene);
  panels.forEach(({ data, runner }) => [data, runner].forEach((each) => each.setContainerWidth?.(600)));
  const isDone = ({ state }) => [LoadingState.Done, LoadingState.Error].includes(state.data?.state);
  const everything = [...panels.map(({ data }) => data), ...annotations];
  while (!everything.every(isDone) && performance.now() - begun < PATIENCE_MS) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  const variables = scene.state.$variables.state.variables;
  const result = {
    dashboard: job.dashboard,
    variables: Object.fromEntries(variables.map((each) => [each.state.name, { value: each.state.value, options: each.state.options?.map(({ value }) => value) }])),
    panels: panels.map(described),
    annotations: annotations.map(({ state }) => ({ name: state.name, marks: marks(state.data) })),
    queries: [...log],
    seconds: (performance.now() - begun) / 1000,
  };
  deactivate.reverse().forEach((end) => end());
  return result;
}

/** Activate an object and all below it, as drawing it would. */
function activated(object) {
  const ends = [object.activate()];
  object.forEachChild((child) => {
    if (!child.isActive) {
      ends.push(...activated(child));
    }
  });
  return ends;
}

function described({ json, data, viz }) {
  const drawn = viz.applyFieldConfig(data.state.data);
  const frames = drawn.series.filter(({ length }) => length);
  return {
    id: json.id,
    title: json.title,
    type: json.type,
    state: data.state.data?.state,
    error: drawn.error?.message ?? drawn.errors?.[0]?.message ?? '',
    unknownTransformations: (json.transformations ?? []).map(({ id }) => id).filter((id) => !transformations.has(id)),
    idleOverrides: (json.fieldConfig?.overrides ?? []).filter((each) => !matches(each, frames)).map(({ matcher }) => matcher),
    frames: frames.map((frame) => ({
      refId: frame.refId ?? '',
      fields: frame.fields.map((field) => ({
        name: getFieldDisplayName(field, frame, frames),
        type: field.type,
        labels: field.labels ?? {},
        unit: field.config.unit ?? '',
        custom: field.config.custom ?? {},
        color: field.config.color ?? {},
        links: field.type === FieldType.string ? field.values.map((_, valueRowIndex) => field.getLinks?.({ valueRowIndex })[0]?.href ?? '') : [],
        // JSON has no NaN and no infinity.
        values: field.values.map((value) => (typeof value === 'number' && !Number.isFinite(value) ? String(value) : (value ?? null))),
        texts: json.type === 'table' ? field.values.map((value) => formattedValueToString(field.display(value))) : [],
      })),
    })),
  };
}

function matches({ matcher }, frames) {
  const isHit = fieldMatchers.get(matcher.id).get(matcher.options);
  return frames.some((frame) => frame.fields.some((field) => isHit(field, frame, frames)));
}

function marks(data) {
  return (data?.series ?? []).flatMap((frame) =>
    Array.from({ length: frame.length }, (_, row) => Object.fromEntries(frame.fields.filter(({ name }) => ['time', 'timeEnd', 'title', 'text', 'tags'].includes(name)).map(({ name, values }) => [name, values[row]])))
  );
}
