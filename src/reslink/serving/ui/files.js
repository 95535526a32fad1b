// Files of a drop event, including those in folders.

async function walk(entry) {
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const reader = entry.createReader();
  const files = [];
  for (;;) {
    const batch = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!batch.length) return files;
    for (const one of batch) files.push(...(await walk(one)));
  }
}

export async function droppedFiles(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const files = entries.length ? (await Promise.all(entries.map(walk))).flat() : [...transfer.files];
  return visibleFiles(files);
}

// Hidden files and DICOMDIR are skipped, as on the command line.
export const visibleFiles = (files) => [...files].filter(({ name }) => !name.startsWith('.') && name.toUpperCase() !== 'DICOMDIR');
