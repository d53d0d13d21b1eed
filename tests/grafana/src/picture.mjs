// Takes pictures of dashboards in Chromium.
//
//   node src/picture.mjs < jobs.json > results.jsonl
//
// jobs.json: {prometheus, chromium, jobs: [{dashboard, from, to, variables, picture, width, height}]}
import fs from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import { chromium } from 'playwright-core';

const FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];
const PATIENCE_MS = 60_000;

const { prometheus, chromium: executablePath, jobs } = JSON.parse(fs.readFileSync(0, 'utf8'));

const profile = fs.mkdtempSync(path.join(os.tmpdir(), 'chromium-'));
const PAGE = '<!doctype html><link rel=icon href=data:,><link rel=stylesheet href=page.css><body><script src=page.js></script>';
const FILES = {
  '/': ['text/html; charset=utf-8', () => PAGE],
  '/page.js': ['text/javascript', () => fs.readFileSync('built/page.js')],
  '/page.css': ['text/css', () => fs.readFileSync('built/page.css')],
};
const ICONS = 'node_modules/@grafana/ui/dist/public/img/icons';
// Grafana's application has a few more.
const BLANK = '<svg xmlns="http://www.w3.org/2000/svg"/>';
const server = http.createServer(({ url }, response) => {
  const [type, content] = FILES[url] ?? ['image/svg+xml', () => icon(url)];
  response.setHeader('Content-Type', type);
  response.end(content());
});
function icon(url) {
  const file = path.join(ICONS, path.normalize(url).split('/icons/').at(-1));
  return fs.existsSync(file) ? fs.readFileSync(file) : BLANK;
}
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const browser = await chromium.launchPersistentContext(profile, { executablePath, headless: true, args: FLAGS });
try {
  for (const job of jobs) {
    console.log(JSON.stringify(await take(job)));
  }
} finally {
  await browser.close();
  server.close();
  fs.rmSync(profile, { recursive: true, force: true });
}

async function take({ dashboard, picture, width = 1500, height, ...rest }) {
  const page = await browser.newPage();
  await page.setViewportSize({ width, height });
  const problems = [];
  page.on('pageerror', ({ message }) => problems.push(message));
  page.on('response', (response) => response.status() >= 400 && problems.push(`${response.status()} ${response.url()}`));
  await page.goto(`http://127.0.0.1:${server.address().port}/`);
  await page.evaluate((job) => window.openDashboard(job), { ...rest, prometheus, dashboard: JSON.parse(fs.readFileSync(dashboard, 'utf8')) });
  await page.waitForFunction(isDrawn, null, { timeout: PATIENCE_MS });
  await page.waitForTimeout(500); // the plots are drawn in the frame after their data came
  await page.screenshot({ path: picture });
  const panels = await page.evaluate(drawnPanels);
  const text = await page.evaluate(() => document.body.innerText);
  await page.close();
  return { dashboard, picture, problems, panels, text };
}

/** Of each panel in view its title, how many curves and rows it was given, and how many coloured pixels it has. */
function drawnPanels() {
  const coloured = (canvas) => {
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    let count = 0;
    for (let at = 0; at < data.length; at += 4) {
      const colour = data.slice(at, at + 3);
      count += data[at + 3] > 200 && Math.max(...colour) - Math.min(...colour) > 40;
    }
    return count;
  };
  return window.bench.panels
    .filter(({ viz }) => viz.isActive)
    .map(({ json, data, viz }) => {
      const title = viz.interpolate(viz.state.title);
      const section = document.querySelector(`[data-testid="data-testid Panel header ${CSS.escape(title)}"]`);
      const canvas = section?.querySelector('canvas');
      return {
        title: json.title,
        type: json.type,
        points: data.state.data.series.reduce((sum, { length }) => sum + length, 0),
        colouredPixels: canvas ? coloured(canvas) : 0,
        text: section?.innerText ?? '',
      };
    });
}

/** Whether every panel in view has its data. */
function isDrawn() {
  const open = window.bench?.panels.filter(({ viz }) => viz.isActive) ?? [];
  return open.length > 0 && open.every(({ data }) => ['Done', 'Error'].includes(data.state.data?.state));
}
