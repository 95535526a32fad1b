// The page: files in, answers out, one stack in the viewer at a time.

import * as api from '/ui/api.js';
import { about, card, strip, studyCard, studyLine, table } from '/ui/answers.js';
import { $, el, percent } from '/ui/dom.js';
import { dropped, shown } from '/ui/files.js';
import { saveCsv, saveJson, savePng } from '/ui/save.js';
import { addAnswers, stacksOf } from '/ui/stacks.js';
import { heatOf, Viewer } from '/ui/viewer.js';

const MOST_MAPS = 48; // slices whose maps are kept: those of a long series would fill the browser's memory

const viewer = new Viewer($('viewer'));
const state = { models: [], stacks: [], current: null, map: '', mapModel: '', maps: new Map() };

const chosen = () => state.models.filter((model) => $('models').querySelector(`input[value="${CSS.escape(model.name)}"]`)?.checked ?? true);
const slice = () => state.current?.slices[state.current.now];
// The models that are chosen, each with its answer for the series as a whole.
const studies = () => chosen().flatMap((model) => (state.current?.study ?? []).filter((found) => found.model === model.name).map((found) => [model, found]));

function say(text, bad = false) {
  $('status').textContent = text;
  $('status').classList.toggle('bad', bad);
}

async function start() {
  try {
    state.models = (await api.models()).models;
  } catch (error) {
    $('token-form').hidden = error.status !== 401;
    say(error.message, true);
    return;
  }
  $('token-form').hidden = true;
  say('');
  $('models-line').textContent = state.models.map(({ name, classes }) => `${name}: ${classes.join(', ')}`).join(' · ');
  $('models').replaceChildren(el('legend', {}, 'Models'), ...state.models.map((model) => choice(model)));
  $('models').hidden = state.models.length < 2;
  $('map-model').replaceChildren(...state.models.map(({ name }) => el('option', { value: name }, name)));
  $('map-model').parentElement.hidden = state.models.length < 2;
  state.mapModel = state.models[0].name;
  fillMaps();
}

function choice(model) {
  return el('label', {}, el('input', { type: 'checkbox', value: model.name, checked: true, onchange: again }), ` ${model.name}`);
}

async function add(files) {
  if (!files.length) return;
  say(`Reading ${files.length} ${files.length === 1 ? 'file' : 'files'} …`);
  try {
    const names = chosen().map(({ name }) => name);
    const [viewed, predicted] = await Promise.all([api.view(files), api.predict(files, names)]);
    const stacks = await stacksOf(files, viewed, predicted);
    state.stacks.push(...stacks);
    const refused = stacks.filter((stack) => stack.problem).length;
    say(`${stacks.length - refused} ${stacks.length - refused === 1 ? 'image or series' : 'images or series'} ready${refused ? `, ${refused} refused` : ''}.`);
    list();
    open(stacks.find((stack) => stack.slices.length) ?? stacks[0]);
  } catch (error) {
    say(error.message, true);
  }
}

async function again() {
  try {
    await askAgain(chosen().map(({ name }) => name));
  } catch (error) {
    say(error.message, true);
  }
}

async function askAgain(names) {
  for (const group of new Set(state.stacks.map(({ files }) => files))) {
    const predicted = names.length ? await api.predict(group, names) : null;
    for (const stack of state.stacks.filter(({ files }) => files === group)) {
      for (const one of stack.slices) one.answers = {};
      if (predicted) addAnswers(stack, predicted);
    }
  }
  list();
  answers();
}

function list() {
  document.querySelector('main').classList.toggle('has-images', state.stacks.length > 0);
  for (const part of document.querySelectorAll('.look, .result')) part.hidden = !state.stacks.length;
  $('clear').hidden = !state.stacks.length;
  $('stacks').replaceChildren(...state.stacks.map((stack) => el('li', {}, button(stack))));
}

function button(stack) {
  const words = el('span', {}, stack.name, el('small', {}, summary(stack)));
  if (stack.problem) words.querySelector('small').classList.add('bad');
  const one = stack.slices[stack.now];
  return el('button', { type: 'button', 'aria-pressed': String(stack === state.current), onclick: () => open(stack) }, one && thumbnail(one), words);
}

function thumbnail(one) {
  const picture = el('canvas', { width: 56, height: 56, 'aria-hidden': 'true' });
  const grey = one.volume.picture(one.index, one.volume.window);
  const scale = Math.min(56 / grey.width, 56 / grey.height);
  const [w, h] = [grey.width * scale, grey.height * scale];
  picture.getContext('2d').drawImage(grey, (56 - w) / 2, (56 - h) / 2, w, h);
  return picture;
}

function summary(stack) {
  if (stack.problem) return 'refused';
  if (stack.slices.length > 1 && stack.study.length) return stack.study.map((one) => `${one.label} ${percent(one.probability)}${one.abstain ? ', abstains' : ''}`).join(' · ');
  if (stack.slices.length > 1) return `${stack.slices.length} slices`;
  const found = Object.values(slice0(stack)?.answers ?? {});
  return found.map((answer) => (answer.error ? 'error' : `${answer.label} ${percent(answer.probability)}${answer.abstain ? ', abstains' : ''}`)).join(' · ');
}

const slice0 = (stack) => stack.slices[0];

function open(stack) {
  state.current = stack;
  for (const [i, one] of [...$('stacks').querySelectorAll('button')].entries()) one.setAttribute('aria-pressed', String(state.stacks[i] === stack));
  $('slice').max = Math.max(0, stack.slices.length - 1);
  $('slice-row').hidden = stack.slices.length < 2;
  $('save-png').hidden = !stack.slices.length; // nothing to draw of a file that was refused
  if (!stack.slices.length) {
    document.querySelector('.look').hidden = true;
    answers();
    return;
  }
  document.querySelector('.look').hidden = false;
  fillPresets(slice().volume);
  go(stack.now, false);
}

function go(place, keep = true) {
  const stack = state.current;
  if (!stack?.slices.length) return;
  stack.now = Math.min(stack.slices.length - 1, Math.max(0, place));
  const one = slice();
  $('slice').value = stack.now;
  $('slice-out').textContent = `${stack.now + 1} of ${stack.slices.length}`;
  viewer.show(one.volume, one.index, keep);
  told();
  answers();
  overlay();
}

function fillPresets(volume) {
  const named = Object.entries(volume.windows).map(([name, window]) => el('option', { value: window.join(' ') }, name));
  $('preset').replaceChildren(el('option', { value: volume.window.join(' ') }, named.length ? 'standard' : 'full'), ...named, el('option', { value: '' }, 'own'));
}

// Says what is shown: in the corner, in the fields, and to screen readers.
function told() {
  const [centre, width] = viewer.window;
  const short = (value) => Number(value.toPrecision(4));
  $('centre').value = short(centre);
  $('width').value = short(width);
  const match = [...$('preset').options].find(({ value }) => value === `${centre} ${width}`);
  $('preset').value = match ? match.value : '';
  $('corner').textContent = `C ${short(centre)} W ${short(width)}${viewer.volume.unit === 'HU' ? ' HU' : ''}`;
  const where = state.current.slices.length > 1 ? `, slice ${state.current.now + 1} of ${state.current.slices.length}` : '';
  const label = Object.values(slice().answers).map((answer) => answer.label).filter(Boolean).join(', ');
  $('viewer').setAttribute('aria-label', `${state.current.name}${where}${label ? `: ${label}` : ''}`);
}

function answers() {
  const stack = state.current;
  if (!stack) return;
  const models = chosen();
  const one = slice();
  const whole = studies();
  $('study').replaceChildren(...whole.map(([model, found]) => studyCard(model, found, stack.slices.length, go)));
  const told = new Set(whole.map(([{ name }]) => name));
  const where = stack.slices.length > 1 ? `, slice ${stack.now + 1}` : '';
  const cards = one ? models.filter(({ name }) => one.answers[name]).map((model) => card(model, one.answers[model.name], where, told.has(model.name))) : [];
  if (stack.problem) cards.unshift(el('p', { class: 'bad' }, stack.problem.detail));
  $('answers').replaceChildren(...cards);
  const many = stack.slices.length > 1;
  $('strip').replaceChildren(...(many ? models.map((model) => strip(model, stack.slices.map((s) => s.answers[model.name]), stack.now, go)) : []));
  $('table-box').hidden = !many;
  if (many) $('table').replaceChildren(...table(models, stack.slices, go));
  $('notes').replaceChildren(...stack.notes.map((text) => el('li', {}, text)));
}

function fillMaps() {
  const model = state.models.find(({ name }) => name === state.mapModel);
  const kept = $('map').value;
  $('map').replaceChildren(el('option', { value: '' }, 'none'), ...Object.entries(model.maps).map(([name, title]) => el('option', { value: name }, title)));
  $('map').value = kept in model.maps ? kept : '';
}

// Lays the chosen map over the slice; what was asked for once is kept.
async function overlay() {
  const [one, name, model] = [slice(), $('map').value, state.mapModel];
  $('map-note').textContent = '';
  if (!one || !name) return viewer.setHeat(null);
  const key = `${state.stacks.indexOf(state.current)} ${state.current.now} ${model}`;
  if (!state.maps.has(key)) state.maps.set(key, explained(one, model));
  if (state.maps.size > MOST_MAPS) state.maps.delete(state.maps.keys().next().value);
  try {
    const found = (await state.maps.get(key)).maps[name];
    if (one !== slice() || name !== $('map').value || model !== state.mapModel || !found) return;
    viewer.setHeat(found.heat);
    $('map-note').textContent = `${found.title}: ${found.note}`;
  } catch (error) {
    state.maps.delete(key);
    $('map-note').textContent = error.message;
  }
}

async function explained(one, model) {
  const [file] = (await api.explain(one.source, model, one.index, one.member)).files;
  if (file.problem) throw new Error(file.problem.detail);
  const maps = {};
  for (const map of file.explanations[0].maps) maps[map.name] = { ...map, heat: await heatOf(map.strength) };
  return { maps };
}

function nextMap() {
  const { options } = $('map');
  $('map').selectedIndex = ($('map').selectedIndex + 1) % options.length;
  overlay();
}

function lines() {
  const one = slice();
  const whole = studies().map(([{ name }, found]) => `${name}, whole series: ${found.label}. ${studyLine(found)}${found.abstain ? ' – the model abstains' : ''}`);
  const single = chosen().filter(({ name }) => one.answers[name]).map((model) => {
    const answer = one.answers[model.name];
    const value = answer.probabilities?.[about(model, answer)];
    return `${model.name}: ${answer.label}, probability of ${about(model, answer)} ${percent(value)}${answer.abstain ? ' – the model abstains' : ''}`;
  });
  return [...whole, ...single];
}

function theme(dark) {
  document.documentElement.dataset.theme = dark ? 'dark' : 'light';
  $('theme').setAttribute('aria-pressed', String(dark));
}

function wire() {
  const drop = document.body;
  drop.addEventListener('dragover', (event) => (event.preventDefault(), $('drop').classList.add('over')));
  drop.addEventListener('dragleave', () => $('drop').classList.remove('over'));
  drop.addEventListener('drop', async (event) => {
    event.preventDefault();
    $('drop').classList.remove('over');
    add(await dropped(event.dataTransfer));
  });
  for (const id of ['pick', 'pick-folder']) {
    $(id).addEventListener('change', async (event) => {
      const files = shown(event.target.files);
      event.target.value = '';
      add(files);
    });
  }
  $('token-form').addEventListener('submit', (event) => (event.preventDefault(), api.useToken($('token').value), start()));
  $('clear').addEventListener('click', () => {
    [state.stacks, state.current] = [[], null];
    state.maps.clear();
    list();
    say('');
  });
  $('theme').addEventListener('click', () => theme(document.documentElement.dataset.theme !== 'dark'));
  $('slice').addEventListener('input', () => go(Number($('slice').value)));
  $('preset').addEventListener('change', () => $('preset').value && viewer.setWindow(...$('preset').value.split(' ').map(Number)));
  for (const id of ['centre', 'width']) {
    $(id).addEventListener('change', () => viewer.setWindow(Number($('centre').value), Number($('width').value)));
  }
  $('zoom-in').addEventListener('click', () => viewer.setZoom(viewer.zoom * 1.25));
  $('zoom-out').addEventListener('click', () => viewer.setZoom(viewer.zoom / 1.25));
  $('fit').addEventListener('click', () => (viewer.reset(), viewer.draw()));
  $('map').addEventListener('change', overlay);
  $('map-model').addEventListener('change', () => ((state.mapModel = $('map-model').value), fillMaps(), overlay()));
  $('opacity').addEventListener('input', () => ((viewer.opacity = $('opacity').value / 100), viewer.draw()));
  $('save-json').addEventListener('click', () => saveJson(state.stacks));
  $('save-csv').addEventListener('click', () => saveCsv(state.stacks));
  $('save-png').addEventListener('click', () => slice() && savePng(viewer, lines()));
  viewer.addEventListener('step', ({ detail }) => go(state.current.now + Math.max(-1e6, Math.min(1e6, detail))));
  viewer.addEventListener('window', told);
  viewer.addEventListener('next-map', nextMap);
}

theme(matchMedia('(prefers-color-scheme: dark)').matches);
wire();
start();
