// The requests of the page. What a file is, the service finds from its content, so each goes without a type of its own.

let token = '';

export function useToken(text) {
  token = text;
}

export class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || `The service answered ${status}.`);
    this.status = status;
    this.problem = problem;
  }
}

async function ask(path, options = {}) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  for (let tries = 0; ; tries++) {
    const answer = await fetch(path, { ...options, headers });
    if (answer.ok) return answer.json();
    if (answer.status === 503 && tries < 5) {
      const seconds = Number(answer.headers.get('Retry-After')) || 1;
      await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
      continue;
    }
    throw new Refused(answer.status, await answer.json().catch(() => ({})));
  }
}

function form(files, fields) {
  const body = new FormData();
  for (const [name, values] of Object.entries(fields)) {
    for (const value of [values].flat()) if (value !== null && value !== undefined) body.append(name, value);
  }
  for (const file of files) body.append('files', new Blob([file], { type: 'application/octet-stream' }), file.name);
  return { method: 'POST', body };
}

// A request of which every file is refused is an answer too: of each file, why.
async function perFile(path, files, fields) {
  try {
    return await ask(path, form(files, fields));
  } catch (error) {
    if (!(error instanceof Refused) || !error.problem.errors) throw error;
    return { files: error.problem.errors.map((one) => ({ file: one.file, problem: one.problem })), series: [] };
  }
}

export const models = () => ask('/v1/models');
export const predict = (files, names) => perFile('/v1/predict', files, { model: names });
export const view = (files) => perFile('/v1/view', files, {});
export const explain = (file, model, slice, member) => perFile('/v1/explain', [file], { model, slice, member });
