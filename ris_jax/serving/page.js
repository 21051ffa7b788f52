"use strict";

// Radius of the ellipse that holds 95 % of a normal distribution in the plane.
const RADIUS = Math.sqrt(-2 * Math.log(0.05));
const WIDTH = 480, HEIGHT = 400, MARGIN = 34, TRAIL = 240;
const NAMESPACE = "http://www.w3.org/2000/svg";
const DEGREES = 180 / Math.PI;

const view = {
  above: { reach: 1, trail: [] },
  front: { azimuth: 60, elevation: 30, trail: [] },
};
let newest = null;

const byId = (id) => document.getElementById(id);

function write(id, text) {
  byId(id).textContent = text;
}

function add(parent, name, attributes, text) {
  const node = document.createElementNS(NAMESPACE, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  parent.appendChild(node);
  return node;
}

/** Half axes and angle of a covariance [[a, b], [b, c]]; null if it is unknown. */
function halfAxes(a, b, c) {
  if (![a, b, c].every(Number.isFinite)) return null;
  const mean = (a + c) / 2, spread = Math.hypot((a - c) / 2, b);
  return {
    major: RADIUS * Math.sqrt(Math.max(mean + spread, 0)),
    minor: RADIUS * Math.sqrt(Math.max(mean - spread, 0)),
    angle: Math.atan2(2 * b, a - c) / 2,
  };
}

/** Outline of an ellipse in pixels, from axes in the units of a projection. */
function outline(center, axes, project) {
  const points = [];
  for (let i = 0; i < 60; i += 1) {
    const t = (2 * Math.PI * i) / 60;
    const along = axes.major * Math.cos(t), across = axes.minor * Math.sin(t);
    const cosine = Math.cos(axes.angle), sine = Math.sin(axes.angle);
    points.push(project(center[0] + along * cosine - across * sine,
      center[1] + along * sine + across * cosine).map((v) => v.toFixed(1)).join(","));
  }
  return points.join(" ");
}

/** Distance of grid lines: 1, 2 or 5 times a power of ten. */
function spacing(extent) {
  const least = extent / 5, power = 10 ** Math.floor(Math.log10(least));
  return power * [1, 2, 5, 10].find((step) => step * power >= least);
}

function lines(svg, low, high, place, vertical, unit) {
  const step = spacing(high - low);
  for (let k = Math.ceil(low / step); k * step <= high; k += 1) {
    const value = k * step, at = place(value);
    const ends = vertical
      ? { x1: at, x2: at, y1: MARGIN / 2, y2: HEIGHT - MARGIN }
      : { x1: MARGIN, x2: WIDTH - MARGIN / 2, y1: at, y2: at };
    add(svg, "line", { class: "grid", ...ends });
    const label = `${Number(value.toPrecision(6))}${unit}`;
    add(svg, "text", vertical
      ? { x: at, y: HEIGHT - MARGIN / 2, "text-anchor": "middle" }
      : { x: MARGIN - 4, y: at + 4, "text-anchor": "end" }, label);
  }
}

function mark(svg, source, at, axes, center, project) {
  const group = add(svg, "g", { class: "source" });
  if (axes) add(group, "polygon", { class: "ellipse", points: outline(center, axes, project) });
  add(group, "circle", { cx: at[0], cy: at[1], r: 3 });
  add(group, "text", { x: at[0] + 7, y: at[1] - 7 }, String(source.source));
}

function trail(svg, points, project) {
  for (const point of points) {
    const [cx, cy] = project(...point);
    add(svg, "circle", { class: "trail", cx, cy, r: 2 });
  }
}

function remember(list, points) {
  list.push(...points);
  list.splice(0, Math.max(list.length - TRAIL, 0));
}

function drawAbove(sources) {
  const svg = byId("above"), state = view.above;
  const near = sources.filter((source) => source.position_m);
  for (const source of near) {
    const [x, , z] = source.position_m;
    state.reach = Math.max(state.reach, 1.15 * z, 1.15 * Math.abs(x));
  }
  const scale = Math.min((WIDTH - 1.5 * MARGIN) / (2 * state.reach),
    (HEIGHT - 1.5 * MARGIN) / state.reach);
  const middle = MARGIN + (WIDTH - 1.5 * MARGIN) / 2;
  const project = (x, z) => [middle + scale * x, HEIGHT - MARGIN - scale * z];
  svg.replaceChildren();
  const half = (WIDTH - 1.5 * MARGIN) / 2 / scale, deep = (HEIGHT - 1.5 * MARGIN) / scale;
  lines(svg, -half, half, (x) => project(x, 0)[0], true, "");
  lines(svg, 0, deep, (z) => project(0, z)[1], false, "");
  add(svg, "rect", { class: "surface", x: middle - 14, y: HEIGHT - MARGIN - 3, width: 28, height: 6 });
  trail(svg, state.trail, project);
  for (const source of near) {
    const [x, , z] = source.position_m, covariance = source.position_covariance_m2;
    const axes = covariance && halfAxes(covariance[0][0], covariance[0][2], covariance[2][2]);
    mark(svg, source, project(x, z), axes, [x, z], project);
  }
  for (const source of sources.filter((each) => !each.position_m)) {
    const azimuth = source.azimuth_deg / DEGREES, group = add(svg, "g", { class: "source" });
    const [x1, y1] = project(0, 0);
    const [x2, y2] = project(state.reach * Math.sin(azimuth), state.reach * Math.cos(azimuth));
    add(group, "line", { class: "ray", x1, y1, x2, y2 });
  }
  remember(state.trail, near.map((source) => [source.position_m[0], source.position_m[2]]));
}

function drawFront(sources) {
  const svg = byId("front"), state = view.front;
  for (const source of sources) {
    state.azimuth = Math.max(state.azimuth, 1.1 * Math.abs(source.azimuth_deg));
    state.elevation = Math.max(state.elevation, 1.1 * Math.abs(source.elevation_deg));
  }
  const across = (WIDTH - 1.5 * MARGIN) / 2, up = (HEIGHT - 1.5 * MARGIN) / 2;
  const project = (azimuth, elevation) => [
    MARGIN + across * (1 + azimuth / state.azimuth),
    MARGIN / 2 + up * (1 - elevation / state.elevation),
  ];
  svg.replaceChildren();
  lines(svg, -state.azimuth, state.azimuth, (v) => project(v, 0)[0], true, "°");
  lines(svg, -state.elevation, state.elevation, (v) => project(0, v)[1], false, "°");
  trail(svg, state.trail, project);
  for (const source of sources) {
    const covariance = source.covariance, square = DEGREES * DEGREES;
    const [a, b, c] = [covariance[0][0], covariance[0][1], covariance[1][1]];
    const known = [a, b, c].every((value) => value !== null);
    const axes = known && halfAxes(square * a, square * b, square * c);
    const center = [source.azimuth_deg, source.elevation_deg];
    mark(svg, source, project(...center), axes, center, project);
  }
  remember(state.trail, sources.map((source) => [source.azimuth_deg, source.elevation_deg]));
}

function cell(value, deviation, unit, digits) {
  if (value === null) return "unlimited";
  const error = deviation === null ? "" : ` ± ${deviation.toPrecision(2)}`;
  return `${value.toFixed(digits)}${error}${unit}`;
}

function fillTable(sources) {
  const rows = sources.map((source) => {
    const row = document.createElement("tr");
    const cells = [
      String(source.source),
      cell(source.azimuth_deg, source.azimuth_std_deg, "°", 2),
      cell(source.elevation_deg, source.elevation_std_deg, "°", 2),
      cell(source.range_m, source.range_std_m, " m", 3),
      source.power_db === null ? "" : `${source.power_db.toFixed(1)} dB`,
    ];
    for (const text of cells) {
      const data = document.createElement("td");
      data.textContent = text;
      row.appendChild(data);
    }
    return row;
  });
  byId("sources").replaceChildren(...rows);
  byId("empty").hidden = rows.length > 0;
}

function badge(id, text, good) {
  write(id, text);
  byId(id).className = `badge ${good ? "good" : "bad"}`;
}

function showService(service) {
  badge("state", service.status, service.status === "ready");
  write("rate", `${service.rate_hz.toFixed(1)} /s`);
  write("latency", service.median_ms === null ? "–" : `${service.median_ms.toFixed(1)} ms`);
  write("answered", String(service.answered));
  write("refused", String(service.refused));
}

function show() {
  const message = newest;
  newest = null;
  showService(message.service);
  if (!message.scenes) return;
  const scene = message.scenes[message.scenes.length - 1];
  const passed = scene.residual_test === "passed";
  badge("residual", `residual test: ${scene.residual_test}`, passed);
  drawAbove(scene.sources);
  drawFront(scene.sources);
  fillTable(scene.sources);
  const items = scene.warnings.map((text) => {
    const item = document.createElement("li");
    item.textContent = text;
    return item;
  });
  byId("warnings").replaceChildren(...items);
}

function connect() {
  const socket = new WebSocket(new URL("feed", location.href.replace(/^http/, "ws")));
  socket.onmessage = (event) => {
    // Drawing follows the screen; results that come faster are skipped.
    if (newest === null) requestAnimationFrame(show);
    const message = JSON.parse(event.data);
    newest = message.scenes || !newest ? message : newest;
  };
  socket.onclose = () => {
    badge("state", "connection lost, trying again", false);
    setTimeout(connect, 1000);
  };
}

drawAbove([]);
drawFront([]);
connect();
