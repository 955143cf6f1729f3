// Draw avatars: node render.mjs STYLE FIRST COUNT SIDE PREFIX > pixels
//
// Writes COUNT images of SIDE x SIDE pixels, 3 unsigned bytes each, row by row, to stdout. Image i is
// that of the seed sha1("PREFIX-i"), i from FIRST on: DiceBear's own hash gives neighbours like "1" and
// "2" the same hair. Needs the packages that package.json beside this names.
import { createHash } from "node:crypto";
import { createWriteStream } from "node:fs";
import { once } from "node:events";
import { createAvatar } from "@dicebear/core";
import { Resvg } from "@resvg/resvg-js";
import * as collection from "@dicebear/collection";

// styles that would stand on nothing get a colour to stand on, drawn by the seed
const BACKGROUNDS = ["b6e3f4", "c0aede", "d1d4f9", "ffd5dc", "ffdfbf", "c8e6c9", "fff3b0", "eceff1"];

const [styleName, first, count, side, prefix] = process.argv.slice(2);
const camel = styleName.replace(/-(.)/g, (_, letter) => letter.toUpperCase());
const style = collection[camel];
if (!style) throw new Error(`no style ${styleName}`);
const own = ["shapes", "rings", "thumbs"].includes(styleName);
const options = own ? {} : { backgroundColor: BACKGROUNDS };

const out = createWriteStream(null, { fd: 1, highWaterMark: 1 << 22 });
for (let i = Number(first); i < Number(first) + Number(count); i++) {
  const seed = createHash("sha1").update(`${prefix}-${i}`).digest("hex");
  const svg = createAvatar(style, { ...options, seed }).toString();
  const image = new Resvg(svg, {
    fitTo: { mode: "width", value: Number(side) },
    background: "#ffffff",
    font: { loadSystemFonts: false },
  }).render();
  if (image.width !== Number(side) || image.height !== Number(side)) {
    throw new Error(`${styleName} ${i} is ${image.width} x ${image.height}`);
  }
  const rgba = image.pixels;
  const rgb = Buffer.allocUnsafe(Number(side) * Number(side) * 3);
  for (let p = 0, q = 0; p < rgba.length; p += 4) {
    rgb[q++] = rgba[p];
    rgb[q++] = rgba[p + 1];
    rgb[q++] = rgba[p + 2];
  }
  if (!out.write(rgb)) await once(out, "drain");
}
out.end();
