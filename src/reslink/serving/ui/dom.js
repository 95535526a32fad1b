// Elements, built from text that is only ever shown as text.

export const $ = (id) => document.getElementById(id);

export function el(name, attributes = {}, ...children) {
  const space = ['svg', 'rect', 'line', 'title'].includes(name) ? 'http://www.w3.org/2000/svg' : 'http://www.w3.org/1999/xhtml';
  const element = document.createElementNS(space, name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith('on')) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? '' : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export const percent = (value) => (value === null || value === undefined ? '–' : `${(100 * value).toFixed(1)} %`);
