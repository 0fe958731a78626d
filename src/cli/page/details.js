// What is said about one thing: beside the pointer, and in the panel with ids to copy.
function nameOf(item) {
  const it = item.row;
  if (item.kind === 'attempt') return `${it.label} #${item.n}`;
  if (item.kind === 'mark') return item.name;
  return it.label;
}
function summary(item) {
  const it = item.row;
  const lines = [];
  if (item.kind === 'mark') {
    lines.push(`◆ ${item.name}`, clock(item.a));
    const text = item.data ? JSON.stringify(item.data) : '';
    if (text) lines.push(text.length > 160 ? text.slice(0, 160) + '…' : text);
    return lines.join('\n');
  }
  if (item.kind === 'row') return it.label + (it.sub ? `\n${it.sub}` : '') + (it.tries > 1 ? `\n${it.tries} attempts` : '');
  lines.push(nameOf(item) + (it.sub ? `  ·  ${it.sub}` : ''));
  const took = item.open ? 'for ' + duration(item.b - item.a) : duration(item.ms ?? item.b - item.a);
  lines.push(item.kind === 'worker' ? (item.open ? 'runs ' : 'ran ') + took : `${item.state.replaceAll('_', ' ')}  ·  ${took}`);
  if (item.wait > 1) lines.push(`after a wait of ${duration(item.wait)}`);
  lines.push(clock(item.a));
  if (item.error) lines.push(item.error.length > 240 ? item.error.slice(0, 240) + '…' : item.error);
  return lines.join('\n');
}
function element(tag, content, name) {
  const it = document.createElement(tag);
  if (name) it.className = name;
  if (content !== undefined) it.textContent = content;
  return it;
}
async function copy(text, button) {
  try { await navigator.clipboard.writeText(text); } catch {
    // A page from a file may not have the clipboard: the old way.
    const area = element('textarea', text);
    document.body.append(area);
    area.select();
    document.execCommand('copy');
    area.remove();
  }
  const was = button.textContent;
  button.textContent = 'Copied';
  setTimeout(() => { button.textContent = was; }, 1200);
}
const panel = byId('details');
function facts(item) {
  const it = item.row, list = [];
  const add = (name, value, id) => { if (value !== undefined && value !== null && value !== '') list.push([name, String(value), id]); };
  let holder = it;
  while (holder && holder.kind !== 'run') holder = holder.parent;
  const run = holder && holder.run;
  if (item.kind === 'mark') { add('at', clock(item.a)); add('type', item.type); add('event id', item.id, true); }
  else {
    add(item.open ? 'since' : 'from', clock(item.a));
    if (!item.open) add('to', clock(item.b));
    if (item.wait > 1) add('waited', duration(item.wait));
  }
  if (item.kind === 'attempt') { add('activity id', it.id, true); add('attempt', `${item.n} of ${it.tries}`); add('worker', item.worker, true); }
  if (item.kind === 'worker') add('task queue', item.queue);
  if (run) {
    if (item.kind !== 'run') add('workflow type', run.type);
    add('workflow id', run.id, true);
    add('run id', run.run, true);
  }
  if (item.kind === 'run') {
    add('task queue', run.queue);
    add('continues', run.from, true);
    add('end found by', run.by);
    for (const [name, value] of Object.entries(run.fields || {})) add(name, typeof value === 'string' ? value : JSON.stringify(value), true);
  }
  if (item.ids) { add('start event', item.ids[0], true); add('end event', item.ids[1], true); }
  return list;
}
function showDetails(item) {
  if (item.kind === 'row') item = item.row.bars[0] || item.row.marks[0] || item;
  if (item.kind === 'row') return;
  panel.replaceChildren();
  const close = element('button', '✕', 'close');
  close.setAttribute('aria-label', 'Close');
  close.onclick = hideDetails;
  panel.append(close, element('h2', nameOf(item)));
  const took = item.kind === 'mark' ? 'event of the application'
    : (item.kind === 'worker' ? 'worker' : item.state.replaceAll('_', ' ')) + ' · ' + (item.open ? 'for ' + duration(item.b - item.a) : duration(item.ms ?? item.b - item.a));
  panel.append(element('p', took + (item.final ? ' · not to be retried' : ''), 'state'));
  if (item.error) panel.append(element('p', item.error, 'error'));
  const list = element('dl');
  for (const [name, value, isId] of facts(item)) {
    const cell = element('dd', undefined, 'copy');
    if (isId) {
      const button = element('button', 'Copy');
      button.setAttribute('aria-label', `Copy ${name}`);
      button.onclick = () => copy(value, button);
      cell.append(button);
    }
    list.append(element('dt', name), element('dd', value, isId ? 'id' : ''), cell);
  }
  panel.append(list);
  if (item.data) panel.append(element('pre', JSON.stringify(item.data, null, 2)));
  const links = element('div', undefined, 'links');
  const link = element('button', 'Copy link'), near = element('button', 'Zoom to it');
  link.onclick = () => copy(location.href, link);
  near.onclick = () => { zoomTo(item); redraw(); };
  links.append(link, near);
  panel.append(links);
  panel.hidden = false;
}
function hideDetails() { panel.hidden = true; chart.focus({ preventScroll: true }); }
function zoomTo(item) {
  const a = toU(item.a), b = toU(item.b ?? item.a), pad = Math.max((b - a) * 0.35, (us[us.length - 1]) * 0.0004, 1);
  look(a - pad, b + pad * 1.6);
}
const tip = byId('tip');
function showTip(item, x, y) {
  tip.textContent = item.fold ? `idle for ${duration(item.fold.b - item.fold.a)}\nfrom ${clock(item.fold.a)}` : summary(item);
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = Math.max(6, Math.min(x + 14, innerWidth - box.width - 8)) + 'px';
  tip.style.top = (y + 18 + box.height > innerHeight ? y - box.height - 10 : y + 18) + 'px';
}
function hideTip() { tip.hidden = true; }
