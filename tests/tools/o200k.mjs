// Writes tests/golden/o200k.jsonl.gz: 10,000 texts with the ids that npm's gpt-tokenizer (o200k_harmony) gives them.
//
//   npm install gpt-tokenizer@4.0.0 tiktoken@1.0.22     (in a folder outside the repository)
//   node tests/tools/o200k.mjs NODE_MODULES_FOLDER O200K_BASE.tiktoken > tests/golden/o200k.jsonl
//   gzip -9n tests/golden/o200k.jsonl
//
// One JSON object a line: text; ids (special tokens parsed); plain (special tokens as plain text, only where that
// differs); in every fifth line gpt2 and llama3, the ids with those patterns. The second judge is OpenAI's own tiktoken
// core (npm's `tiktoken` is its Rust source compiled to WebAssembly) with the published pattern: where gpt-tokenizer
// gives other ids, they are kept as `npm` and the line's `ids` are OpenAI's. Three things in gpt-tokenizer cause that:
//   - \s in JavaScript counts U+FEFF as white space and U+0085 not; Unicode's White_Space, which Rust follows, the
//     other way round;
//   - 's without regard to case includes U+017F (long s) in Rust; gpt-tokenizer spells it [sS];
//   - its look-up of bytes goes through a TextDecoder that drops a leading U+FEFF, so tokens such as 5574 (ef bb bf)
//     are never found.
// The proof: gpt-tokenizer run again with these three repaired must agree with OpenAI everywhere, or the script stops.
// Besides, gpt-tokenizer finds a special token only at the very start of a text (4.0.0 searches with a sticky
// expression), so it is given the stretches between special tokens, and each special token alone.
import { isUtf8 } from "node:buffer";
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { resolve } from "node:path";

const [folder, vocabulary] = process.argv.slice(2);
if (!vocabulary) throw new Error("usage: node o200k.mjs NODE_MODULES_FOLDER O200K_BASE.tiktoken");
const require = createRequire(pathToFileURL(resolve(folder, "x.js")));
const npm = require("gpt-tokenizer/encoding/o200k_harmony");
const { Tiktoken } = require("tiktoken");

const COUNT = 10000;
const FIRST_SPECIAL = 199998;
const LAST_SPECIAL = 201087;
const names = new Map([
  [199998, "startoftext"], [199999, "endoftext"], [200002, "return"], [200003, "constrain"], [200005, "channel"],
  [200006, "start"], [200007, "end"], [200008, "message"], [200012, "call"], [200018, "endofprompt"],
]);
const specials = {};
for (let id = FIRST_SPECIAL; id <= LAST_SPECIAL; id++) specials[`<|${names.get(id) ?? `reserved_${id}`}|>`] = id;
const specialNames = Object.keys(specials);

// openai/tiktoken, openai_public.py, o200k_base.
const contraction = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?";
const published = [
  `[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+${contraction}`,
  `[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*${contraction}`,
  "\\p{N}{1,3}", " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*", "\\s*[\\r\\n]+", "\\s+(?!\\S)", "\\s+",
].join("|");
// The file format of that package: "! offset tokens..." lines.
const ranks = readFileSync(vocabulary, "utf8").trim().split("\n").map((line) => line.split(" ")[0]);
const coreOf = (pattern) => new Tiktoken(`! 0 ${ranks.join(" ")}`, specials, pattern);
const openai = coreOf(published);
// openai/gpt-2, encoder.py, and meta-llama/llama3, tokenizer.py, on the same vocabulary: they differ in the split alone.
const gpt2 = coreOf("'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+");
const llama3 = coreOf("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|" +
  " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+");

const whiteSpace = "\\t-\\r \\u0085\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const specialPattern = new RegExp(`(${specialNames.map((name) => name.replace(/[|]/g, "\\|")).join("|")})`);
const core = npm.default.bytePairEncodingCoreProcessor;
const spelledOut = core.tokenSplitRegex.source.replaceAll("[^\\s", `[^${whiteSpace}`)
  .replaceAll("\\S", `[^${whiteSpace}]`).replaceAll("\\s", `[${whiteSpace}]`).replaceAll("[sS]", "[sSſ]");
const modes = {
  published: { split: core.tokenSplitRegex, find: core.getBpeRankFromBytes },
  repaired: {
    split: new RegExp(spelledOut, "gu"),
    find(bytes) {
      if (bytes[0] !== 0xef || bytes[1] !== 0xbb || bytes[2] !== 0xbf) return modes.published.find.call(core, bytes);
      const text = isUtf8(bytes) ? Buffer.from(bytes).toString("utf8") : "";
      return core.getBpeRankFromString(text) ?? core.bytePairNonUtfSortedEncoder[core.binarySearch(bytes)]?.[1];
    },
  },
};
core.setMergeCacheSize(0);

function npmEncode(text, mode) {
  core.tokenSplitRegex = mode.split;
  core.getBpeRankFromBytes = mode.find;
  return text.split(specialPattern).flatMap((part, i) => npm.encode(part, i % 2 ? { allowedSpecial: "all" } : undefined));
}

// ---- a seeded generator (xorshift32) ----

let state = 0x6d6c3230;
function random(n) {
  state ^= state << 13;
  state ^= state >>> 17;
  state ^= state << 5;
  return (state >>> 0) % n;
}
const pick = (list) => list[random(list.length)];
const times = (low, high, make) => Array.from({ length: low + random(high - low + 1) }, make).join("");
const point = (low, high) => {
  const c = low + random(high - low + 1);
  return c >= 0xd800 && c <= 0xdfff ? "\ufffd" : String.fromCodePoint(c);
};
const of = (low, high) => () => point(low, high);
const upper = (word) => word.toUpperCase();
const title = (word) => word[0].toUpperCase() + word.slice(1);

// ---- material ----

const words = ("time year people way day man thing woman life child world school state family student group country " +
  "problem hand part place case week company system program question work government number night point home water " +
  "room mother area money story fact month lot right study book eye job word business issue side kind head house " +
  "tokenizer antidisestablishmentarianism naïve façade Straße Übermut señor garçon příliš žluťoučký łódź ångström " +
  "привет мир Достоевский здравствуйте ελληνικά Αθήνα ქართული հայերեն").split(" ");
const code = [
  'for (int i = 0; i < n; ++i) {\n    sum += a[i] * b[i];\n}\n', '#include <stdio.h>\n#define MAX(a,b) ((a)>(b)?(a):(b))\n',
  'def fib(n: int) -> int:\n\treturn n if n < 2 else fib(n - 1) + fib(n - 2)\n', '@dataclass\nclass Point:\n    x: float = 0.0\n',
  'const f = async ({ id, ...rest }) => `${id}: ${JSON.stringify(rest)}`;\n', "if (x !== null && x?.y?.[0] === '\\n') { return; }\n",
  'fn main() -> Result<(), Box<dyn Error>> {\n    let v: Vec<_> = (0..10).map(|x| x * x).collect();\n}\n',
  'local t = setmetatable({}, { __index = function(_, k) return k .. "!" end })\n', 'SELECT a.id, COUNT(*) FROM t AS a WHERE a.x <> 1;--\n',
  '<div class="row"><a href="https://example.org/?q=1&amp;r=2#x">link</a></div>\n', '$ grep -rn "foo\\|bar" ./src | sed \'s/x/y/g\' > /dev/null 2>&1\n',
  '{"k": [1, 2.5e-3, null, true], "s": "\\u00e9\\n"}\n', '\\begin{equation}\n  \\int_0^\\infty e^{-x^2}\\,dx = \\frac{\\sqrt{\\pi}}{2}\n\\end{equation}\n',
  'data Tree a = Leaf | Node (Tree a) a (Tree a) deriving (Show, Eq)\n', 'template <typename T> auto f(T&& x) -> decltype(x + 1) { return x + 1; }\r\n',
  'package main\n\nimport "fmt"\n\nfunc main() {\n\tfmt.Println("%d\\t%s")\n}\n', 'mov eax, dword ptr [rbp-0x1C]\n', '// TODO(user): fix/this/path\n/* */\n',
  'print("Hello, World!")  # comment\n', '=> != == <= >= && || ** // /// <!-- --> ::: ... ;;; ~~~ ``` """ \'\'\' ### $$$ %%% ^^^ &&& ((( ))) [[[ ]]] {{{ }}}',
];
const emoji = ["😀", "👍", "👩", "👨", "👧", "❤", "🏳", "🌈", "🚀", "🤷", "🧑", "💻", "☃", "✈", "🦊", "🫠", "🇺", "🇸", "🇩", "🇪", "🇯", "🇵", "5️⃣", "#️⃣"];
const joiners = ["\u200d", "\ufe0f", "\u{1f3fb}", "\u{1f3fd}", "\u{1f3ff}", "\u20e3", "\u200d♀️", "\u200d⚕️", "\u{e0067}\u{e007f}"];
const marks = [of(0x300, 0x36f), of(0x483, 0x489), of(0x591, 0x5bd), of(0x610, 0x61a), of(0x1dc0, 0x1dff), of(0x20d0, 0x20f0), of(0xfe20, 0xfe2f)];
const spaces = [" ", "  ", "    ", "\t", "\n", "\r\n", "\r", "\u00a0", "\u1680", "\u2000", "\u2003", "\u2009", "\u200a", "\u200b", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000", "\u0085", "\ufeff", "\u180e", "\v", "\f"];
const tails = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'T", "'RE", "'Re", "'vE", "'M", "'LL", "'lL", "'D", "'ſ", "'ſt", "'ſA", "’s", "'x", "'", "''s"];
const scripts = {
  hindi: [of(0x905, 0x939), of(0x93a, 0x94f), of(0x964, 0x96f), of(0x905, 0x939)],
  indic: [of(0x980, 0x9ff), of(0xb80, 0xbff), of(0xc00, 0xc7f), of(0xd00, 0xd7f)],
  thai: [of(0xe01, 0xe30), of(0xe31, 0xe3a), of(0xe40, 0xe4e), of(0xe50, 0xe59)],
  jamo: [of(0x1100, 0x1112), of(0x1161, 0x1175), of(0x11a8, 0x11c2), of(0x3131, 0x318e), of(0xac00, 0xd7a3)],
  cjk: [of(0x4e00, 0x9fa5), of(0x3041, 0x3096), of(0x30a1, 0x30fa), of(0x3000, 0x303f), of(0xff01, 0xff5e), of(0x20000, 0x2a6df)],
  rtl: [of(0x621, 0x64a), of(0x64b, 0x65f), of(0x660, 0x669), of(0x5d0, 0x5ea), of(0x591, 0x5c7), of(0x200e, 0x200f), () => " "],
  myanmar: [of(0x1000, 0x109f), of(0x1780, 0x17dd), of(0xf00, 0xf47), of(0x1200, 0x1248)],
};
const ascii = of(0x20, 0x7e);
const word = () => pick(words);
const sentence = () => times(3, 9, () => pick([word, word, word, () => title(word()), () => word() + pick(tails)])() + pick([" ", " ", " ", ", ", ". ", "; "]));
const script = () => {
  const letters = pick(Object.values(scripts));
  return times(2, 14, () => pick(letters)());
};
const special = () => pick(random(3) ? specialNames.filter((name) => !name.includes("reserved")) : specialNames);

const kinds = {
  prose: sentence,
  code: () => {
    const text = times(1, 2, () => " ".repeat(pick([0, 0, 2, 4, 8])) + pick(code).replace(/[a-z]{3,}/, (m) => (random(2) ? m : word())));
    return random(2) ? text : text.slice(random(text.length / 2), random(text.length / 2) + text.length / 2);
  },
  emoji: () => times(1, 8, () => pick([() => pick(emoji), () => pick(emoji) + pick(joiners), () => pick(joiners), () => pick(emoji) + pick(joiners) + pick(emoji), () => " "])()),
  marks: () => times(1, 8, () => pick([ascii, word, of(0x41, 0x5a)])() + times(0, 3, () => pick(marks)())),
  script,
  scripts: () => times(2, 4, () => script() + pick(["", " ", "\n", ", ", word()])),
  digits: () => times(1, 5, () => times(1, 14, of(0x30, 0x39)) + pick(["", " ", ".", ",", "-", "/", ":", "e", "½", "²", "٣", "४", "Ⅷ", "𝟘", "一"])),
  spaces: () => times(1, 8, () => pick(spaces).repeat(pick([1, 1, 1, 2, 3, 7])) + pick(["", "", "a", "B", ".", "9", "é", "漢"])),
  lines: () => times(2, 8, () => pick(["\n", "\r\n", "\n\n", "\r", " \n", "\t\n", "\n ", "\n\t", "/", "//\n", ".\n", ";\r\n"]) + pick(["", "", word(), "  ", "}"])),
  contractions: () => times(1, 6, () => pick([word(), upper(word()), title(word()), "I", "don", "1", "_", "."]) + pick(tails) + pick(["", " ", "a", "Z", "\n"])),
  cases: () => times(2, 7, () => pick([word, () => upper(word()), () => title(word()), of(0x1c4, 0x1cc), of(0x2b0, 0x2b8), of(0x41, 0x5a), () => pick(["_", "-", "$", "2"])])()),
  runs: () => times(1, 4, () => pick(["a", "A", "=", "-", " ", "\n", "0", "é", "の", "!", "😀", "\u0301", "xy", "aA", "\t"]).repeat(1 + random(60))),
  punctuation: () => times(3, 24, pick([of(0x21, 0x2f), of(0x3a, 0x40), of(0x2010, 0x205e), of(0x2190, 0x21ff), of(0x2500, 0x257f), ascii])),
  private: () => times(1, 8, () => pick([of(0xe000, 0xf8ff), of(0xf0000, 0xffffd), of(0xfff0, 0xfffd), of(0x80, 0x9f), of(0, 0x1f), () => "\x7f", word])()),
  astral: () => times(1, 10, pick([of(0x1d400, 0x1d7ff), of(0x10330, 0x1034a), of(0x10400, 0x1044f), of(0x1f000, 0x1faff), of(0x1e900, 0x1e943), of(0x12000, 0x12399)])),
  anything: () => times(1, 12, of(1, 0x2fff)),
  latin: () => times(4, 30, of(0xa0, 0x24f)),
  special: () => times(1, 5, () => pick([special, special, sentence, word, () => special().slice(0, 1 + random(12)), () => special().slice(random(4)), () => pick(spaces)])()),
  harmony: () => `<|start|>${pick(["user", "assistant", "system", "developer", "functions.f to=assistant"])}` +
    `${pick(["", "<|channel|>analysis", "<|channel|>commentary to=functions.x <|constrain|>json"])}<|message|>${sentence()}${pick(["<|end|>", "<|return|>", "<|call|>", ""])}`,
  mixed: () => {
    const makers = Object.entries(kinds).filter(([name]) => name !== "mixed").map(([, make]) => make);
    const text = Array.from(times(2, 3, () => pick(makers)()));
    const from = random(4);
    return text.slice(from, from + 10 + random(80)).join("");
  },
};

// Every special token stands in one of the first texts; then the kinds in turn.
function* texts() {
  for (let at = 0; at < specialNames.length; at += 20) yield specialNames.slice(at, at + 20).join(pick(["", " ", "\n", "x"]));
  const makers = Object.values(kinds);
  for (let turn = 0; ; turn++) {
    const text = makers[turn % makers.length]();
    if (text) yield text;
  }
}

// ---- judging ----

let different = 0;
function judge(text, npmIds, repairedIds, truth) {
  if (repairedIds.join() !== truth.join())
    throw new Error(`an unknown difference: ${JSON.stringify(text)}\n npm      ${npmIds}\n repaired ${repairedIds}\n openai   ${truth}`);
  const same = npmIds.join() === truth.join();
  if (!same) different++;
  return same;
}

const out = [];
const seen = new Set();
for (const text of texts()) {
  if (seen.has(text)) continue;
  seen.add(text);
  const ids = npmEncode(text, modes.published);
  const truth = Array.from(openai.encode(text, "all"));
  const line = judge(text, ids, npmEncode(text, modes.repaired), truth) ? { text, ids } : { text, ids: truth, npm: ids };
  if (ids.some((id) => id >= FIRST_SPECIAL)) line.plain = Array.from(openai.encode_ordinary(text));
  if (out.length % 5 === 0) {
    line.gpt2 = Array.from(gpt2.encode(text, "all"));
    line.llama3 = Array.from(llama3.encode(text, "all"));
  }
  out.push(JSON.stringify(line));
  if (out.length === COUNT) break;
}
process.stdout.write(out.join("\n") + "\n");
process.stderr.write(`${out.length} texts; gpt-tokenizer differs from OpenAI in ${different}\n`);
