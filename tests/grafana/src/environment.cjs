// What Grafana's packages expect of a browser, for Node: loaded before the bundle.
const { JSDOM } = require('jsdom');

const { window } = new JSDOM('<!doctype html><html><body></body></html>', {
  url: 'http://127.0.0.1/',
  pretendToBeVisual: true,
});

globalThis.window = globalThis;
globalThis.grafanaBootData = {
  settings: { featureToggles: {}, buildInfo: { version: '13.2.2', env: 'production' }, datasources: {}, panels: {}, apps: {} },
  user: { timezone: 'utc', locale: 'en-US', language: 'en-US' },
  navTree: [],
};

// Node's own are kept: the bench speaks HTTP with them.
const nodes = ['fetch', 'Headers', 'URL', 'URLSearchParams', 'AbortController', 'AbortSignal', 'Event', 'EventTarget', 'crypto', 'performance'];
for (const name of Object.getOwnPropertyNames(window)) {
  if (!(name in globalThis) && !nodes.includes(name)) {
    try {
      globalThis[name] = window[name];
    } catch {
      // a few are only readable in a real browser
    }
  }
}
for (const name of ['addEventListener', 'removeEventListener', 'dispatchEvent', 'getComputedStyle', 'requestAnimationFrame', 'cancelAnimationFrame']) {
  globalThis[name] = window[name].bind(window);
}
for (const name of ['document', 'location', 'history', 'localStorage', 'sessionStorage']) {
  Object.defineProperty(globalThis, name, { value: window[name], configurable: true });
}

class Observer {
  observe() {}
  unobserve() {}
  disconnect() {}
}
Object.assign(globalThis, {
  ResizeObserver: Observer,
  IntersectionObserver: Observer,
  matchMedia: () => ({ matches: false, addEventListener() {}, removeEventListener() {}, addListener() {}, removeListener() {} }),
  CSS: { supports: () => false, escape: (text) => text },
  Path2D: class {},
  innerWidth: 1400,
});
window.HTMLCanvasElement.prototype.getContext = () => null;
