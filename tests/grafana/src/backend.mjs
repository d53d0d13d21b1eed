// Stands in for Grafana's server: what it does between the Prometheus data source in the browser and Prometheus.
//
// That is: choosing the step of a query, replacing $__interval and the like, aligning the range to the step, and turning
// Prometheus' answer into data frames. One part of it, the macros $__rate_interval and the rounding of intervals, is
// written in Go and cannot be run here.
import { from } from 'rxjs';

// The longest of our panels has so many points; more than 11 000 Prometheus refuses.
const MOST_POINTS = 11000;
const SCRAPE_INTERVAL_S = 5; // jsonData.timeInterval in grafana/provisioning/datasources

const SECONDS = { ms: 0.001, s: 1, m: 60, h: 3600, d: 86400, w: 604800 };
// Up to the first number (ms) an interval is rounded to the second.
const ROUNDED = [
  [10, 1], [15, 10], [35, 20], [75, 50], [150, 100], [350, 200], [750, 500],
  [1500, 1000], [3500, 2000], [7500, 5000], [12500, 10000], [17500, 15000], [25000, 20000], [45000, 30000],
  [90e3, 60e3], [210e3, 120e3], [450e3, 300e3], [750e3, 600e3], [1050e3, 900e3], [1500e3, 1200e3], [2700e3, 1800e3],
  [5400e3, 3600e3], [9000e3, 7200e3], [16200e3, 10800e3], [32400e3, 21600e3], [86400e3, 43200e3], [604800e3, 86400e3],
];

const seconds = (duration) => {
  const [, number, unit] = /^([\d.]+)(ms|s|m|h|d|w)$/.exec(duration);
  return number * SECONDS[unit];
};
const rounded = (ms) => (ROUNDED.find(([limit]) => ms < limit) ?? [0, 604800e3])[1];
const duration = (s) => (Number.isInteger(s) ? `${s}s` : `${Math.round(s * 1000)}ms`);

/** The step (s) of a query over a range (ms). */
export function stepOf(query, range) {
  const least = query.interval ? seconds(query.interval) * 1000 : query.intervalMs || SCRAPE_INTERVAL_S * 1000;
  const wanted = Math.max(rounded(range / (query.maxDataPoints || 100)), least);
  return Math.max(wanted, rounded(range / MOST_POINTS)) / 1000;
}

/** The expression with the server's macros replaced. */
export function expanded(query, step, range) {
  const shortest = query.interval ? seconds(query.interval) : SCRAPE_INTERVAL_S;
  const rate = Math.max(step + shortest, 4 * shortest);
  const whole = Math.round(range / 1000);
  // Longer names first: one of them begins with another.
  const macros = {
    __rate_interval_ms: rate * 1000,
    __rate_interval: duration(rate),
    __interval_ms: step * 1000,
    __interval: duration(step),
    __range_ms: range,
    __range_s: whole,
    __range: `${whole}s`,
  };
  return Object.entries(macros).reduce(
    (text, [name, value]) => text.replaceAll(`\${${name}}`, value).replaceAll(`$${name}`, value),
    query.expr
  );
}

/** Data frames, one per series; what is not finite travels beside the values. */
function frames(query, step, executed, { resultType, result }) {
  if (!result.length) {
    return [{ schema: { refId: query.refId, meta: { executedQueryString: executed }, fields: [] }, data: { values: [] } }];
  }
  return result.map(({ metric, values, value }) => {
    const entities = { NaN: [], Inf: [], NegInf: [] };
    const names = { NaN: 'NaN', '+Inf': 'Inf', '-Inf': 'NegInf' };
    const points = values ?? [value];
    const numbers = points.map(([, text], index) => {
      if (text in names) {
        entities[names[text]].push(index);
        return null;
      }
      return Number(text);
    });
    return {
      schema: {
        refId: query.refId,
        meta: { type: 'timeseries-multi', custom: { resultType }, executedQueryString: executed },
        fields: [
          { name: 'Time', type: 'time', typeInfo: { frame: 'time.Time' }, config: { interval: step * 1000 } },
          { name: 'Value', type: 'number', typeInfo: { frame: 'float64' }, labels: metric, config: named(query, metric) },
        ],
      },
      data: { values: [points.map(([time]) => Math.round(time * 1000)), numbers], entities: [null, entities] },
    };
  });
}

function named({ legendFormat }, metric) {
  return legendFormat ? { displayNameFromDS: legendFormat.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, label) => metric[label] ?? '') } : {};
}

/** A backend for one Prometheus; `log` is told of every query. */
export function makeBackend(prometheus, log) {
  const get = async (path, parameters) => (await fetch(`${prometheus}${path}?${new URLSearchParams(parameters)}`)).json();

  async function answer(query, from, to) {
    const step = stepOf(query, to - from);
    const expr = expanded(query, step, to - from);
    const aligned = (ms) => Math.floor(ms / 1000 / step) * step;
    const begun = performance.now();
    const reply = query.instant
      ? await get('/api/v1/query', { query: expr, time: to / 1000 })
      : await get('/api/v1/query_range', { query: expr, start: aligned(from), end: aligned(to), step });
    log.push({
      refId: query.refId,
      expr,
      step,
      instant: Boolean(query.instant),
      from: aligned(from),
      to: query.instant ? to / 1000 : aligned(to),
      ms: performance.now() - begun,
      series: reply.data?.result.length ?? 0,
      error: reply.error ?? '',
    });
    if (reply.status !== 'success') {
      return { status: 400, error: reply.error, frames: [] };
    }
    return { status: 200, frames: frames(query, step, `Expr: ${expr}\nStep: ${duration(step)}`, reply.data) };
  }

  async function handle({ url, data, params }) {
    if (url.startsWith('/api/ds/query')) {
      const answers = data.queries.map(async (query) => [query.refId, await answer(query, +data.from, +data.to)]);
      return { results: Object.fromEntries(await Promise.all(answers)) };
    }
    const resource = /\/resources\/([^?]*)/.exec(url);
    if (!resource) {
      throw new Error(`the bench has no answer to ${url}`);
    }
    return get(`/${resource[1]}`, { ...params, ...(typeof data === 'object' ? data : {}) });
  }

  return {
    fetch: (request) => from(handle(request).then((data) => ({ data, ok: true, status: 200, statusText: 'OK', headers: new Headers(), url: request.url, config: request }))),
  };
}
