// Files out of a drop, folders included.

async function walk(entry) {
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return found;
    for (const one of some) found.push(...(await walk(one)));
  }
}

export async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const found = entries.length ? (await Promise.all(entries.map(walk))).flat() : [...transfer.files];
  return shown(found);
}

// Hidden files and DICOMDIR are no images, as for the command line.
export const shown = (files) => [...files].filter(({ name }) => !name.startsWith('.') && name.toUpperCase() !== 'DICOMDIR');
