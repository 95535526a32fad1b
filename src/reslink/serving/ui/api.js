// Requests to the service. The service detects the format of a file from its content, so files are sent without a type.

let token = '';

export function useToken(text) {
  token = text;
}

export class RequestError extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || `The service responded with status ${status}.`);
    this.status = status;
    this.problem = problem;
  }
}

async function request(path, options = {}) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  for (let attempt = 0; ; attempt++) {
    const response = await fetch(path, { ...options, headers });
    if (response.ok) return response.json();
    if (response.status === 503 && attempt < 5) {
      const seconds = Number(response.headers.get('Retry-After')) || 1;
      await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
      continue;
    }
    throw new RequestError(response.status, await response.json().catch(() => ({})));
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

// If every file is refused, returns the problem of each file instead of an error.
async function requestFiles(path, files, fields) {
  try {
    return await request(path, form(files, fields));
  } catch (error) {
    if (!(error instanceof RequestError) || !error.problem.errors) throw error;
    return { files: error.problem.errors.map((one) => ({ file: one.file, problem: one.problem })), series: [] };
  }
}

export const models = () => request('/v1/models');
export const predict = (files, names) => requestFiles('/v1/predict', files, { model: names });
export const view = (files) => requestFiles('/v1/view', files, {});
export const explain = (file, model, slice, member, target) => requestFiles('/v1/explain', [file], { model, slice, member, target });
