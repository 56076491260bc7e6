// What Python stored in the page. Numbers and texts are deflated and in base64.

function block(id) {
  return document.getElementById(id)?.textContent ?? null;
}

async function inflate(id) {
  const text = atob(block(id));
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

async function numbers(id, Type) {
  return block(id) === null ? null : new Type(await inflate(id));
}

// A number as one reads it: 0.1 + 0.2 is 0.3.
function short(value) {
  return Number.isFinite(value) ? String(Number(value.toPrecision(7))) : "no number";
}

async function readData() {
  const about = JSON.parse(block("about"));
  const texts = JSON.parse(new TextDecoder().decode(await inflate("texts")));
  const pictures = block("pictures") === null ? null : JSON.parse(block("pictures"));
  const sounds = block("sounds") === null ? null : JSON.parse(block("sounds"));
  const [places, codes, values, positions, neighbours] = await Promise.all([
    numbers("places", Float32Array),
    numbers("codes", Uint32Array),
    numbers("values", Float64Array),
    numbers("positions", Uint32Array),
    numbers("neighbours", Uint32Array),
  ]);
  const n = about.n;
  const k = neighbours === null ? 0 : neighbours.length / n;
  return {
    ...about,
    places,
    codes,
    values,
    textOf: (i) => (texts === null ? "" : texts[i]),
    pictureOf: (i) => pictures?.[i] ?? null,
    hasSounds: sounds !== null,
    soundOf: (i) => sounds?.[i] ?? null,
    positionOf: (i) => (positions === null ? i : positions[i]),
    neighboursOf: (i) => (k ? [...neighbours.subarray(i * k, i * k + k)] : []),
    classOf: (i) => {
      if (about.kind === "classes") return about.names[codes[i]];
      if (about.kind === "numbers") return short(values[i]);
      return "";
    },
  };
}
