// Checks dashboards against the types of @grafana/schema: `node src/schema.mjs FILE...` prints what is wrong.
//
// A dashboard, its panels' options and their custom field options are checked; a key that no type knows is wrong.
import fs from 'node:fs';
import Ajv from 'ajv';
import { createGenerator } from 'ts-json-schema-generator';

const TYPES = 'node_modules/@grafana/schema/dist/types';
const DASHBOARD = `${TYPES}/raw/dashboard/x/types.gen.d.ts`;
// The library that makes the dashboards writes some keys of other variables, or of tables before Grafana 12, which are
// passed over; and of an annotation some keys are the Prometheus data source's.
const HARMLESS = [
  /\/templating\/list\/\d+ must NOT have additional properties .*"auto(_min|_count)?"/,
  /options of panel .* must NOT have additional properties .*"footer"/,
  /\/annotations\/list\/\d+ must NOT have additional properties .*"(expr|step|titleFormat|textFormat|tagKeys|useValueForTime)"/,
];

const ajv = new Ajv({ allErrors: true, strict: false });
// The newest colour schemes stand in the types of the next dashboard format only.
const colours = schemaOf(`${TYPES}/schema/dashboard/v2/types.spec.gen.d.ts`, 'FieldColorModeId').definitions;
const isDashboard = validator(DASHBOARD, 'Dashboard');
const isPanel = validator(DASHBOARD, 'Panel');
const isRow = validator(DASHBOARD, 'RowPanel');
const kinds = Object.fromEntries(
  ['timeseries', 'trend', 'table'].map((kind) => {
    const path = `${TYPES}/raw/composable/${kind}/panelcfg/x/types.gen.d.ts`;
    return [kind, { options: validator(path, 'Options'), custom: validator(path, 'FieldConfig') }];
  })
);

let wrong = 0;
for (const file of process.argv.slice(2)) {
  for (const problem of problems(JSON.parse(fs.readFileSync(file, 'utf8')))) {
    wrong += 1;
    console.log(`${file}: ${problem}`);
  }
}
process.exit(wrong ? 1 : 0);

function schemaOf(path, type) {
  return createGenerator({ path, type, skipTypeCheck: true, additionalProperties: false }).createSchema(type);
}

function validator(path, type) {
  const schema = schemaOf(path, type);
  // Grafana fills in what is missing.
  Object.values(schema.definitions).forEach((definition) => delete definition.required);
  return ajv.compile({ ...schema, definitions: { ...schema.definitions, ...colours } });
}

function* problems(dashboard) {
  yield* errors(isDashboard, { ...dashboard, panels: [] }, 'dashboard');
  for (const panel of dashboard.panels.flatMap((each) => [each, ...(each.panels ?? [])])) {
    if (panel.type === 'row') {
      yield* errors(isRow, { ...panel, panels: [] }, `row "${panel.title}"`);
      continue;
    }
    yield* errors(isPanel, panel, `panel "${panel.title}"`);
    const kind = kinds[panel.type];
    if (!kind) {
      yield `panel "${panel.title}": unknown type ${panel.type}`;
      continue;
    }
    yield* errors(kind.options, panel.options ?? {}, `options of panel "${panel.title}"`);
    yield* errors(kind.custom, panel.fieldConfig.defaults.custom ?? {}, `custom options of panel "${panel.title}"`);
    for (const { properties } of panel.fieldConfig.overrides) {
      const custom = properties.filter(({ id }) => id.startsWith('custom.')).map(({ id, value }) => [id.slice(7), value]);
      yield* errors(kind.custom, Object.fromEntries(custom), `overrides of panel "${panel.title}"`);
    }
  }
}

function* errors(validate, value, where) {
  if (validate(value)) {
    return;
  }
  for (const { instancePath, message, params } of validate.errors) {
    const text = `${where}: ${instancePath} ${message} ${JSON.stringify(params)}`;
    if (!HARMLESS.some((pattern) => pattern.test(text))) {
      yield text;
    }
  }
}
