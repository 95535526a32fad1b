// The page: uploads files, shows predictions, and displays one stack in the viewer at a time.

import * as api from '/ui/api.js';
import { $, el, percent } from '/ui/dom.js';
import { droppedFiles, visibleFiles } from '/ui/files.js';
import { seriesCard, seriesText, shownClass, sliceCard, strip, table } from '/ui/predictions.js';
import { saveCsv, saveJson, savePng } from '/ui/save.js';
import { addAnswers, stacksOf } from '/ui/stacks.js';
import { decodeMap, Viewer } from '/ui/viewer.js';

const MAX_CACHED_MAPS = 48; // the maps of a long series would fill the memory of the browser

const viewer = new Viewer($('viewer'));
const state = { models: [], stacks: [], current: null, map: '', mapModel: '', maps: new Map() };

const selectedModels = () => state.models.filter((model) => $('models').querySelector(`input[value="${CSS.escape(model.name)}"]`)?.checked ?? true);
const currentSlice = () => state.current?.slices[state.current.now];
// The selected models, each with its prediction for the whole series.
const seriesAnswers = () =>
  selectedModels().flatMap((model) => (state.current?.seriesAnswers ?? []).filter((answer) => answer.model === model.name).map((answer) => [model, answer]));

function showStatus(text, bad = false) {
  $('status').textContent = text;
  $('status').classList.toggle('bad', bad);
}

async function start() {
  try {
    state.models = (await api.models()).models;
  } catch (error) {
    $('token-form').hidden = error.status !== 401;
    showStatus(error.message, true);
    return;
  }
  $('token-form').hidden = true;
  showStatus('');
  $('models-line').textContent = state.models.map(({ name, classes }) => `${name}: ${classes.join(', ')}`).join(' · ');
  $('models').replaceChildren(el('legend', {}, 'Models'), ...state.models.map((model) => modelCheckbox(model)));
  $('models').hidden = state.models.length < 2;
  $('map-model').replaceChildren(...state.models.map(({ name }) => el('option', { value: name }, name)));
  $('map-model').parentElement.hidden = state.models.length < 2;
  state.mapModel = state.models[0].name;
  fillMaps();
}

function modelCheckbox(model) {
  return el('label', {}, el('input', { type: 'checkbox', value: model.name, checked: true, onchange: repredict }), ` ${model.name}`);
}

async function addFiles(files) {
  if (!files.length) return;
  showStatus(`Reading ${files.length} ${files.length === 1 ? 'file' : 'files'} …`);
  try {
    const names = selectedModels().map(({ name }) => name);
    const [viewed, predicted] = await Promise.all([api.view(files), api.predict(files, names)]);
    const stacks = await stacksOf(files, viewed, predicted);
    state.stacks.push(...stacks);
    const refused = stacks.filter((stack) => stack.problem).length;
    showStatus(`${stacks.length - refused} ${stacks.length - refused === 1 ? 'image or series' : 'images or series'} ready${refused ? `, ${refused} refused` : ''}.`);
    showStacks();
    openStack(stacks.find((stack) => stack.slices.length) ?? stacks[0]);
  } catch (error) {
    showStatus(error.message, true);
  }
}

async function repredict() {
  try {
    await predictStacks(selectedModels().map(({ name }) => name));
  } catch (error) {
    showStatus(error.message, true);
  }
}

async function predictStacks(names) {
  for (const group of new Set(state.stacks.map(({ files }) => files))) {
    const predicted = names.length ? await api.predict(group, names) : null;
    for (const stack of state.stacks.filter(({ files }) => files === group)) {
      for (const one of stack.slices) one.answers = {};
      if (predicted) addAnswers(stack, predicted);
    }
  }
  showStacks();
  showPredictions();
}

function showStacks() {
  document.querySelector('main').classList.toggle('has-images', state.stacks.length > 0);
  for (const part of document.querySelectorAll('.image, .result')) part.hidden = !state.stacks.length;
  $('clear').hidden = !state.stacks.length;
  $('stacks').replaceChildren(...state.stacks.map((stack) => el('li', {}, stackButton(stack))));
}

function stackButton(stack) {
  const words = el('span', {}, stack.name, el('small', {}, summary(stack)));
  if (stack.problem) words.querySelector('small').classList.add('bad');
  const middle = stack.slices[stack.now];
  return el('button', { type: 'button', 'aria-pressed': String(stack === state.current), onclick: () => openStack(stack) }, middle && thumbnail(middle), words);
}

function thumbnail({ volume, index }) {
  const picture = el('canvas', { width: 56, height: 56, 'aria-hidden': 'true' });
  const image = volume.picture(index, volume.window);
  const scale = Math.min(56 / image.width, 56 / image.height);
  const [w, h] = [image.width * scale, image.height * scale];
  picture.getContext('2d').drawImage(image, (56 - w) / 2, (56 - h) / 2, w, h);
  return picture;
}

function summary(stack) {
  if (stack.problem) return 'refused';
  if (stack.slices.length > 1 && stack.seriesAnswers.length) return stack.seriesAnswers.map((answer) => `${answer.label} ${percent(answer.probability)}${answer.abstain ? ', abstains' : ''}`).join(' · ');
  if (stack.slices.length > 1) return `${stack.slices.length} slices`;
  return Object.values(stack.slices[0]?.answers ?? {}).map((answer) => (answer.error ? 'error' : `${answer.label} ${percent(answer.probability)}${answer.abstain ? ', abstains' : ''}`)).join(' · ');
}

function openStack(stack) {
  state.current = stack;
  for (const [i, button] of [...$('stacks').querySelectorAll('button')].entries()) button.setAttribute('aria-pressed', String(state.stacks[i] === stack));
  $('slice').max = Math.max(0, stack.slices.length - 1);
  $('slice-row').hidden = stack.slices.length < 2;
  $('save-png').hidden = !stack.slices.length; // a refused file has no image
  if (!stack.slices.length) {
    document.querySelector('.image').hidden = true;
    showPredictions();
    return;
  }
  document.querySelector('.image').hidden = false;
  fillPresets(currentSlice().volume);
  goTo(stack.now, false);
}

function goTo(position, keep = true) {
  const stack = state.current;
  if (!stack?.slices.length) return;
  stack.now = Math.min(stack.slices.length - 1, Math.max(0, position));
  const one = currentSlice();
  $('slice').value = stack.now;
  $('slice-out').textContent = `${stack.now + 1} of ${stack.slices.length}`;
  viewer.show(one.volume, one.index, keep);
  showWindow();
  showPredictions();
  showMap();
}

function fillPresets(volume) {
  const named = Object.entries(volume.windows).map(([name, window]) => el('option', { value: window.join(' ') }, name));
  $('preset').replaceChildren(el('option', { value: volume.window.join(' ') }, named.length ? 'default' : 'full'), ...named, el('option', { value: '' }, 'custom'));
}

// Shows window and slice: in the corner, in the fields, and for screen readers.
function showWindow() {
  const [center, width] = viewer.window;
  const short = (value) => Number(value.toPrecision(4));
  $('center').value = short(center);
  $('width').value = short(width);
  const match = [...$('preset').options].find(({ value }) => value === `${center} ${width}`);
  $('preset').value = match ? match.value : '';
  $('corner').textContent = `C ${short(center)} W ${short(width)}${viewer.volume.unit === 'HU' ? ' HU' : ''}`;
  const where = state.current.slices.length > 1 ? `, slice ${state.current.now + 1} of ${state.current.slices.length}` : '';
  const label = Object.values(currentSlice().answers).map((answer) => answer.label).filter(Boolean).join(', ');
  $('viewer').setAttribute('aria-label', `${state.current.name}${where}${label ? `: ${label}` : ''}`);
}

function showPredictions() {
  const stack = state.current;
  if (!stack) return;
  const models = selectedModels();
  const slice = currentSlice();
  const series = seriesAnswers();
  $('series').replaceChildren(...series.map(([model, answer]) => seriesCard(model, answer, stack.slices.length, goTo)));
  const inSeries = new Set(series.map(([{ name }]) => name));
  const suffix = stack.slices.length > 1 ? `, slice ${stack.now + 1}` : '';
  const cards = slice
    ? models.filter(({ name }) => slice.answers[name]).map((model) => sliceCard(model, slice.answers[model.name], suffix, inSeries.has(model.name)))
    : [];
  if (stack.problem) cards.unshift(el('p', { class: 'bad' }, stack.problem.detail));
  $('answers').replaceChildren(...cards);
  const many = stack.slices.length > 1;
  $('strip').replaceChildren(...(many ? models.map((model) => strip(model, stack.slices.map((s) => s.answers[model.name]), stack.now, goTo)) : []));
  $('table-box').hidden = !many;
  if (many) $('table').replaceChildren(...table(models, stack.slices, goTo));
  $('notes').replaceChildren(...stack.notes.map((text) => el('li', {}, text)));
}

function fillMaps() {
  const model = state.models.find(({ name }) => name === state.mapModel);
  const kept = $('map').value;
  $('map').replaceChildren(el('option', { value: '' }, 'none'), ...Object.entries(model.maps).map(([name, title]) => el('option', { value: name }, title)));
  $('map').value = kept in model.maps ? kept : '';
}

// Shows the selected map over the slice; requested maps are cached.
async function showMap() {
  const [slice, name, model] = [currentSlice(), $('map').value, state.mapModel];
  $('map-note').textContent = '';
  if (!slice || !name) return viewer.setHeat(null);
  const key = `${state.stacks.indexOf(state.current)} ${state.current.now} ${model}`;
  if (!state.maps.has(key)) state.maps.set(key, requestMaps(slice, model));
  if (state.maps.size > MAX_CACHED_MAPS) state.maps.delete(state.maps.keys().next().value);
  try {
    const map = (await state.maps.get(key)).maps[name];
    if (slice !== currentSlice() || name !== $('map').value || model !== state.mapModel || !map) return;
    viewer.setHeat(map.heat);
    $('map-note').textContent = `${map.title}: ${map.note}`;
  } catch (error) {
    state.maps.delete(key);
    $('map-note').textContent = error.message;
  }
}

async function requestMaps(slice, model) {
  const [file] = (await api.explain(slice.source, model, slice.index, slice.member)).files;
  if (file.problem) throw new Error(file.problem.detail);
  const maps = {};
  for (const map of file.explanations[0].maps) maps[map.name] = { ...map, heat: await decodeMap(map.strength) };
  return { maps };
}

function nextMap() {
  const { options } = $('map');
  $('map').selectedIndex = ($('map').selectedIndex + 1) % options.length;
  showMap();
}

// The predictions as text, for the saved PNG.
function summaryLines() {
  const slice = currentSlice();
  const series = seriesAnswers().map(([{ name }, answer]) => `${name}, whole series: ${answer.label}. ${seriesText(answer)}${answer.abstain ? ' – the model abstains' : ''}`);
  const single = selectedModels().filter(({ name }) => slice.answers[name]).map((model) => {
    const answer = slice.answers[model.name];
    const value = answer.probabilities?.[shownClass(model, answer)];
    return `${model.name}: ${answer.label}, probability of ${shownClass(model, answer)} ${percent(value)}${answer.abstain ? ' – the model abstains' : ''}`;
  });
  return [...series, ...single];
}

function setTheme(dark) {
  document.documentElement.dataset.theme = dark ? 'dark' : 'light';
  $('theme').setAttribute('aria-pressed', String(dark));
}

function addListeners() {
  const drop = document.body;
  drop.addEventListener('dragover', (event) => (event.preventDefault(), $('drop').classList.add('over')));
  drop.addEventListener('dragleave', () => $('drop').classList.remove('over'));
  drop.addEventListener('drop', async (event) => {
    event.preventDefault();
    $('drop').classList.remove('over');
    addFiles(await droppedFiles(event.dataTransfer));
  });
  for (const id of ['pick', 'pick-folder']) {
    $(id).addEventListener('change', async (event) => {
      const files = visibleFiles(event.target.files);
      event.target.value = '';
      addFiles(files);
    });
  }
  $('token-form').addEventListener('submit', (event) => (event.preventDefault(), api.useToken($('token').value), start()));
  $('clear').addEventListener('click', () => {
    [state.stacks, state.current] = [[], null];
    state.maps.clear();
    showStacks();
    showStatus('');
  });
  $('theme').addEventListener('click', () => setTheme(document.documentElement.dataset.theme !== 'dark'));
  $('slice').addEventListener('input', () => goTo(Number($('slice').value)));
  $('preset').addEventListener('change', () => $('preset').value && viewer.setWindow(...$('preset').value.split(' ').map(Number)));
  for (const id of ['center', 'width']) {
    $(id).addEventListener('change', () => viewer.setWindow(Number($('center').value), Number($('width').value)));
  }
  $('zoom-in').addEventListener('click', () => viewer.setZoom(viewer.zoom * 1.25));
  $('zoom-out').addEventListener('click', () => viewer.setZoom(viewer.zoom / 1.25));
  $('fit').addEventListener('click', () => (viewer.reset(), viewer.draw()));
  $('map').addEventListener('change', showMap);
  $('map-model').addEventListener('change', () => ((state.mapModel = $('map-model').value), fillMaps(), showMap()));
  $('opacity').addEventListener('input', () => ((viewer.opacity = $('opacity').value / 100), viewer.draw()));
  $('save-json').addEventListener('click', () => saveJson(state.stacks));
  $('save-csv').addEventListener('click', () => saveCsv(state.stacks));
  $('save-png').addEventListener('click', () => currentSlice() && savePng(viewer, summaryLines()));
  viewer.addEventListener('step', ({ detail }) => goTo(state.current.now + Math.max(-1e6, Math.min(1e6, detail))));
  viewer.addEventListener('window', showWindow);
  viewer.addEventListener('next-map', nextMap);
}

setTheme(matchMedia('(prefers-color-scheme: dark)').matches);
addListeners();
start();
