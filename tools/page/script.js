"use strict";
// Shows what the pointer is on in the surface. Everything else on the page works without.
const report = JSON.parse(document.getElementById("data").textContent);
const tip = document.getElementById("tip");
const svg = document.querySelector("#surface svg");

const bytes = (count) => {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (count >= 1024 && unit + 1 < units.length) {
    count /= 1024;
    unit += 1;
  }
  return `${Number.isInteger(count) ? count : count.toFixed(1)} ${units[unit]}`;
};
const time = (us) => (us < 1000 ? `${us.toFixed(0)} us` : `${(us / 1000).toFixed(us < 10000 ? 1 : 0)} ms`);
const share = (part, error) =>
  `${(part * 100).toFixed(1)}${error > 0 ? ` ± ${(error * 100).toFixed(1)}` : ""} %`;

const life = (years) => {
  if (years >= 100) {
    return "more than 100 years";
  }
  const days = Math.round(years * 365.25);
  return years < 1 ? `${days} day${days === 1 ? "" : "s"}` : `${years.toFixed(1)} years`;
};

const describe = (one) => {
  const lines = [
    `RAM ${bytes(one.ram_bytes)}, ${one.ssd_bytes ? `SSD ${bytes(one.ssd_bytes)}` : "no SSD"}`,
    `from RAM ${share(one.ram_share, one.ram_share_error)}, SSD ${share(one.ssd_share, 0)}, ` +
      `disk ${share(one.disk_share, one.disk_share_error)}`,
    `a read takes ${time(one.read_mean_us)}, 99th percentile ${time(one.read_p99_us)}`,
  ];
  if (one.ssd_bytes_a_day !== null && one.ssd_bytes) {
    lines.push(`written a day ${bytes(Math.round(one.ssd_bytes_a_day))}`);
  }
  if (one.life_years !== null) {
    lines.push(`lasts ${life(one.life_years)}`);
  }
  lines.push(`price ${one.price.toFixed(2)}, the index takes ${bytes(one.index_bytes)} of RAM`);
  return lines.join("\n");
};

/** The candidate under a point of the window, if any. */
const at = (x, y) => {
  const matrix = svg.getScreenCTM();
  const point = new DOMPoint(x, y).matrixTransform(matrix.inverse());
  const [left, top, right, bottom] = svg.dataset.place.split(" ").map(Number);
  const [columns, rows] = svg.dataset.cells.split(" ").map(Number);
  const column = Math.floor(((point.x - left) / (right - left)) * columns);
  const row = Math.floor(((bottom - point.y) / (bottom - top)) * rows);
  const isInside = column >= 0 && column < columns && row >= 0 && row < rows;
  return isInside ? report.surface[row * columns + column] : undefined;
};

svg.addEventListener("pointermove", (event) => {
  const one = at(event.clientX, event.clientY);
  tip.hidden = one === undefined;
  if (one === undefined) {
    return;
  }
  tip.textContent = describe(one);
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.min(event.clientX + 14, window.innerWidth - width - 8)}px`;
  tip.style.top = `${Math.max(8, event.clientY - height - 14)}px`;
});
svg.addEventListener("pointerleave", () => {
  tip.hidden = true;
});
