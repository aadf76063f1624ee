// Markdown as DOM nodes. What was written is text: no part of it ever becomes markup of the page.
//
// Every search that fails is remembered, and nesting is bounded: no text takes more than a multiple of its length.

const MAX_DEPTH = 8;
const MAX_LABEL = 1_000; // characters of a link's text
const SAFE = new Set(["http:", "https:", "mailto:"]);
const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`\s]*)/;
const ITEM = /^( *)([-*+]|[0-9]{1,9}[.)])(?: +|$)/;
const RULE = /^ {0,3}([-*_])(?: *\1){2,} *$/;
const HEADING = /^ {0,3}(#{1,6})(?: +|$)/;
const WORD = /[\p{L}\p{N}_]/u;
const URL_HERE = /https?:\/\/[^\s<>"]+/y;
const ADDRESS = /[^\s<>"]{0,2000}/y;
const AUTOLINK = /<((?:https?:\/\/|mailto:)[^\s<>]+)>/y;

// Shows a text in an element; of a text that has grown, only what is new at its end is made anew.
export function render(element, text, labels = {}) {
  const parts = blocks(text.replace(/\r\n?/g, "\n").split("\n"), 0);
  const known = element.shownParts ?? [];
  let same = 0;
  while (same < parts.length && same < known.length && parts[same].source === known[same]) same++;
  while (element.childNodes.length > same) element.lastChild.remove();
  for (const part of parts.slice(same)) element.append(part.make(labels));
  element.shownParts = parts.map(part => part.source);
}

function blocks(lines, depth) {
  const found = [];
  for (let at = 0; at < lines.length;) {
    if (!lines[at].trim()) {
      at++;
      continue;
    }
    const [end, make] = block(lines, at, depth);
    found.push({source: lines.slice(at, end).join("\n"), make});
    at = end;
  }
  return found;
}

function block(lines, at, depth) {
  const line = lines[at];
  const fence = FENCE.exec(line);
  if (fence) return fenced(lines, at, fence);
  if (RULE.test(line)) return [at + 1, () => make("hr")];
  const heading = HEADING.exec(line);
  if (heading) {
    const level = Math.min(6, heading[1].length + 2); // below the page's own headings
    return [at + 1, () => inline(make(`h${level}`), line.slice(heading[0].length).replace(/ #{1,100} *$/, ""), 0)];
  }
  if (depth < MAX_DEPTH && /^ {0,3}>/.test(line)) return quoted(lines, at, depth);
  const item = ITEM.exec(line);
  if (item && depth < MAX_DEPTH) return listed(lines, at, item, depth);
  if (isTable(lines, at)) return table(lines, at);
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && !begins(lines, end, depth)) end++;
  return [end, () => inline(make("p"), lines.slice(at, end).join("\n"), 0)];
}

function begins(lines, at, depth) {
  const line = lines[at];
  const item = depth < MAX_DEPTH && ITEM.exec(line);
  return FENCE.test(line) || RULE.test(line) || HEADING.test(line) || (depth < MAX_DEPTH && /^ {0,3}>/.test(line))
    || (item && line.trim() !== item[2] && (!/^[0-9]/.test(item[2]) || parseInt(item[2], 10) === 1)) || isTable(lines, at);
}

function fenced(lines, at, [, marks, language]) {
  let end = at + 1;
  const closes = line => {
    const text = line.trim();
    return text.length >= marks.length && text === marks[0].repeat(text.length);
  };
  while (end < lines.length && !closes(lines[end])) end++;
  const text = lines.slice(at + 1, end).join("\n");
  return [Math.min(end + 1, lines.length), labels => {
    const figure = make("figure");
    const code = make("code");
    code.textContent = text;
    const pre = make("pre");
    pre.tabIndex = 0;
    pre.dir = "ltr";
    pre.append(code);
    const caption = make("figcaption");
    caption.textContent = language;
    const copy = make("button");
    copy.type = "button";
    copy.textContent = labels.copy ?? "Copy";
    copy.addEventListener("click", () => navigator.clipboard?.writeText(text));
    caption.append(copy);
    figure.append(caption, pre);
    return figure;
  }];
}

function quoted(lines, at, depth) {
  let end = at;
  while (end < lines.length && /^ {0,3}>/.test(lines[end])) end++;
  const inner = lines.slice(at, end).map(line => line.replace(/^ {0,3}> ?/, ""));
  return [end, labels => fill(make("blockquote"), inner, depth + 1, labels)];
}

function listed(lines, at, first, depth) {
  const isOrdered = /^[0-9]/.test(first[2]);
  const items = [];
  let end = at;
  while (end < lines.length) {
    const item = ITEM.exec(lines[end]);
    if (!item || RULE.test(lines[end]) || item[1].length > first[1].length + 3 || /^[0-9]/.test(item[2]) !== isOrdered
      || item[1].length < first[1].length) break;
    const width = item[0].length;
    const inner = [lines[end].slice(width)];
    const indent = item[1].length + 1;
    let next = end + 1;
    for (; next < lines.length; next++) {
      const line = lines[next];
      const blank = !line.trim();
      const inside = line.search(/[^ ]/) >= indent;
      if (!blank && !inside && (ITEM.test(line) || !lines[next - 1].trim() || begins(lines, next, depth))) break;
      if (blank && !(next + 1 < lines.length && lines[next + 1].search(/[^ ]/) >= indent)) break;
      inner.push(line.slice(Math.min(width, Math.max(0, line.search(/[^ ]/)))));
    }
    items.push(inner);
    end = next;
    let beyond = next;
    while (beyond < lines.length && !lines[beyond].trim()) beyond++;
    if (beyond > next && beyond < lines.length && ITEM.test(lines[beyond])) end = beyond; // a loose list
  }
  return [end, labels => {
    const list = make(isOrdered ? "ol" : "ul");
    if (isOrdered) list.start = parseInt(first[2], 10);
    for (const inner of items) {
      const item = make("li");
      const task = /^\[([ xX])\] /.exec(inner[0]);
      if (task) {
        inner[0] = `${task[1] === " " ? "☐" : "☑"} ${inner[0].slice(4)}`;
        item.className = "task";
      }
      fill(item, inner, depth + 1, labels);
      if (item.childNodes.length && item.firstChild.tagName === "P") item.firstChild.replaceWith(...item.firstChild.childNodes);
      list.append(item);
    }
    return list;
  }];
}

function isTable(lines, at) {
  const next = lines[at + 1];
  return lines[at].includes("|") && next !== undefined && next.includes("-") && next.includes("|") && /^[\s|:-]+$/.test(next);
}

function table(lines, at) {
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|")) end++;
  const rows = [lines[at], ...lines.slice(at + 2, end)].map(cells);
  return [end, labels => {
    const element = make("table");
    rows.forEach((row, number) => {
      const tr = make("tr");
      for (const text of row) {
        const cell = inline(make(number ? "td" : "th"), text, 0);
        cell.dir = "auto";
        if (!number) cell.scope = "col";
        tr.append(cell);
      }
      element.append(tr);
    });
    const frame = make("div");
    frame.className = "table";
    frame.tabIndex = 0;
    frame.setAttribute("role", "region");
    frame.setAttribute("aria-label", labels.table ?? "Table");
    frame.append(element);
    return frame;
  }];
}

function cells(line) {
  const found = [""];
  const text = line.trim();
  for (let at = 0; at < text.length; at++) {
    if (text[at] === "\\" && text[at + 1] === "|") found[found.length - 1] += text[++at];
    else if (text[at] === "|") found.push("");
    else found[found.length - 1] += text[at];
  }
  if (text.startsWith("|")) found.shift();
  if (found.length > 1 && !found.at(-1).trim()) found.pop();
  return found.map(each => each.trim());
}

function fill(element, lines, depth, labels) {
  for (const part of blocks(lines, depth)) element.append(part.make(labels));
  return element;
}

// `dead` has the marks that no later part of the text closes, and "link" within a link.
function inline(parent, text, depth, dead = new Set()) {
  let plain = "";
  const flush = () => {
    if (plain) parent.append(document.createTextNode(plain));
    plain = "";
  };
  const add = element => {
    flush();
    parent.append(element);
  };
  for (let at = 0; at < text.length;) {
    const found = construct(text, at, depth, dead);
    if (found === null) {
      plain += text[at++];
    } else {
      if (typeof found.node === "string") plain += found.node;
      else add(found.node);
      at = found.end;
    }
  }
  flush();
  return parent;
}

function construct(text, at, depth, dead) {
  switch (text[at]) {
    case "\\":
      if (text[at + 1] === "\n") return {node: make("br"), end: at + 2};
      return /[!-/:-@[-`{-~]/.test(text[at + 1] ?? "") ? {node: text[at + 1], end: at + 2} : null;
    case "\n":
      return {node: make("br"), end: at + 1};
    case "`":
      return codeSpan(text, at, dead);
    case "!":
      return text[at + 1] === "[" ? link(text, at + 1, depth, dead) : null;
    case "[":
      return link(text, at, depth, dead);
    case "<": {
      if (dead.has("link")) return null;
      AUTOLINK.lastIndex = at;
      const found = AUTOLINK.exec(text);
      return found && anchored(found[1], found[1], at + found[0].length);
    }
    case "h":
      return dead.has("link") ? null : bareLink(text, at);
    case "*": case "_": case "~":
      return emphasis(text, at, depth, dead);
    default:
      return null;
  }
}

function codeSpan(text, at, dead) {
  let start = at;
  while (text[start] === "`") start++;
  const marks = text.slice(at, start);
  for (let end = dead.has(marks) ? -1 : text.indexOf(marks, start); end >= 0; end = text.indexOf(marks, end)) {
    let after = end;
    while (text[after] === "`") after++;
    if (after - end === marks.length) {
      const code = make("code");
      const inner = text.slice(start, end).replaceAll("\n", " ");
      code.textContent = inner.trim() && inner.startsWith(" ") && inner.endsWith(" ") ? inner.slice(1, -1) : inner;
      return {node: code, end: after};
    }
    end = after;
  }
  dead.add(marks);
  return {node: marks, end: start};
}

function link(text, at, depth, dead) {
  const length = text.slice(at + 1, at + MAX_LABEL).indexOf("](");
  const label = text.slice(at + 1, at + 1 + length);
  if (length < 0 || label.includes("[") || depth >= MAX_DEPTH || dead.has("link")) return null;
  const middle = at + 1 + length;
  ADDRESS.lastIndex = middle + 2;
  const most = middle + 2 + ADDRESS.exec(text)[0].length;
  let end = middle + 2;
  for (let open = 0; end < most; end++) {
    if (text[end] === "(") open++;
    else if (text[end] === ")" && open-- === 0) break;
  }
  const address = text.slice(middle + 2, end);
  const title = / ["'(]/y;
  title.lastIndex = end;
  if (title.test(text)) end += Math.max(0, text.slice(end, end + MAX_LABEL).indexOf(")"));
  return text[end] === ")" ? anchored(address, label || address, end + 1, depth) : null;
}

function bareLink(text, at) {
  if (at && WORD.test(text[at - 1])) return null;
  URL_HERE.lastIndex = at;
  const found = URL_HERE.exec(text)?.[0];
  if (!found) return null;
  let length = found.length;
  while (length && /[.,;:!?'"\])*_~]/.test(found[length - 1])) {
    if (found[length - 1] === ")" && found.slice(0, length).includes("(")) break;
    length--;
  }
  const address = found.slice(0, length);
  return anchored(address, address, at + length);
}

function anchored(address, label, end, depth = null) {
  let url;
  try {
    url = new URL(address);
  } catch {
    return null;
  }
  if (!SAFE.has(url.protocol)) return null;
  const anchor = make("a");
  anchor.href = url.href;
  anchor.target = "_blank";
  anchor.rel = "noopener noreferrer nofollow";
  anchor.title = url.href.slice(0, 300);
  if (depth === null) anchor.textContent = label;
  else inline(anchor, label, depth + 1, new Set(["link"]));
  return {node: anchor, end};
}

function emphasis(text, at, depth, dead) {
  const mark = text[at];
  const count = text[at + 1] !== mark ? 1 : text[at + 2] !== mark || mark === "~" ? 2 : 3;
  if ((mark === "~" && count === 1) || depth >= MAX_DEPTH) return null;
  const marks = mark.repeat(count);
  const start = at + marks.length;
  if (dead.has(marks) || start >= text.length || /\s/.test(text[start]) || text[start] === mark) return null;
  if (mark === "_" && at && WORD.test(text[at - 1])) return null;
  for (let end = text.indexOf(marks, start); end >= 0; end = text.indexOf(marks, end + 1)) {
    const closes = !/\s/.test(text[end - 1]) && text[end - 1] !== "\\" && !(mark === "_" && WORD.test(text[end + marks.length] ?? ""));
    if (count === 1 && text[end + 1] === mark) {
      end++; // of a double one
      continue;
    }
    if (closes) {
      const element = make(mark === "~" ? "del" : count > 1 ? "strong" : "em");
      const within = new Set(dead.has("link") ? ["link"] : []);
      const inner = count < 3 ? element : element.appendChild(make("em"));
      inline(inner, text.slice(start, end), depth + 1, within);
      return {node: element, end: end + marks.length};
    }
  }
  dead.add(marks);
  return null;
}

function make(tag) {
  const element = document.createElement(tag);
  if (/^(p|h[1-6]|li|blockquote)$/.test(tag)) element.dir = "auto";
  return element;
}
