// Bundles the bench: `node src/build.mjs node` for queries, `node src/build.mjs browser` for pictures.
import * as esbuild from 'esbuild';

const target = process.argv[2];

const missing = {
  name: 'missing',
  setup(build) {
    // Editors and the assistant are of no use here, and are not installed.
    build.onResolve({ filter: /^(@grafana\/assistant|monaco-editor|@monaco-editor\/)/ }, () => ({ path: 'empty', namespace: 'empty' }));
    build.onLoad({ filter: /.*/, namespace: 'empty' }, () => ({
      contents: 'module.exports = new Proxy({}, { get: (_, name) => (name === "__esModule" ? false : () => ({})) });',
    }));
    // Scenes is written for version 6 of the router, everything else for version 5.
    build.onResolve({ filter: /^react-router-dom$/ }, ({ importer, kind }) =>
      /@grafana\/scenes/.test(importer)
        ? build.resolve('react-router-dom-v5-compat', { kind, resolveDir: process.cwd() })
        : undefined
    );
  },
};

const files = { '.svg': 'dataurl', '.png': 'dataurl', '.woff2': 'dataurl', '.ttf': 'dataurl' };
const common = { bundle: true, logLevel: 'error', plugins: [missing], jsx: 'automatic' };

if (target === 'browser') {
  await esbuild.build({
    ...common,
    entryPoints: ['src/page.jsx'],
    outfile: 'built/page.js',
    format: 'iife',
    minify: true,
    loader: { ...files, '.css': 'css' },
    define: { 'process.env.NODE_ENV': '"production"', global: 'globalThis' },
  });
} else {
  await esbuild.build({
    ...common,
    entryPoints: ['src/query.mjs'],
    outfile: 'built/query.cjs',
    platform: 'node',
    format: 'cjs',
    external: ['jsdom'],
    loader: { ...files, '.css': 'empty' },
    define: { 'process.env.NODE_ENV': '"development"' },
    banner: { js: 'require("../src/environment.cjs");' },
    mainFields: ['module', 'main'],
    conditions: ['import', 'module'],
  });
}
