"""Replies as models write them: what they are made of, in many scripts, and what was found to be lost by one converter
or another."""

# ruff: noqa: RUF001 - letters of other scripts are meant

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle, islice

PHRASES = {
    "english": ["Getting started", "Install the package first, then restart it.", "price", "It's done — mostly.", "ok"],
    "german": ["Größe & Übersicht", "Öffnen Sie die Datei; schließen Sie sie danach.", "Maß", "„So“ geht's.", "süß"],
    "french": ["Résumé n° 1", "L'œuvre coûte 12,50 € « environ ».", "garçon", "Où ça ? Là-bas !", "naïve"],
    "vietnamese": ["Bước đầu tiên", "Hãy cài đặt gói này trước khi chạy.", "giá", "Được rồi, cảm ơn bạn.", "ổn"],
    "russian": ["Установка", "Сначала установите пакет, затем перезапустите.", "цена", "Готово — почти.", "да"],
    "greek": ["Εγκατάσταση", "Πρώτα εγκαταστήστε το πακέτο· μετά ξεκινήστε.", "τιμή", "Έτοιμο;", "ναι"],
    "arabic": ["البدء السريع", "ثبّت الحزمة أولاً، ثم أعد التشغيل.", "السعر", "تمّ — تقريباً؟", "نعم"],
    "hebrew": ["התחלה מהירה", "התקינו את החבילה, ואז הפעילו מחדש.", "מחיר", "סיימנו — כמעט!", "כן"],
    "persian": ["شروع سریع", "نخست بسته را نصب کنید؛ سپس می‌توانید اجرا کنید.", "قیمت", "تمام شد؟", "بله"],
    "hindi": ["त्वरित शुरुआत", "पहले पैकेज स्थापित करें, फिर क्षेत्र चुनें।", "मूल्य", "हो गया — लगभग।", "हाँ"],
    "bengali": ["দ্রুত শুরু", "প্রথমে প্যাকেজটি ইনস্টল করুন।", "মূল্য", "শেষ — প্রায়।", "হ্যাঁ"],
    "tamil": ["விரைவு தொடக்கம்", "முதலில் தொகுப்பை நிறுவவும்.", "விலை", "முடிந்தது!", "சரி"],
    "thai": ["เริ่มต้นใช้งาน", "ติดตั้งแพ็กเกจก่อนแล้วจึงเริ่มใหม่ทำน้ำ", "ราคา", "เสร็จแล้ว ๆ", "ได้"],
    "chinese": ["快速开始", "请先安装软件包，然后重新启动。", "价格", "“完成”了——差不多！", "好"],
    "japanese": ["はじめに", "まずパッケージをインストールしてください。", "価格", "「完了」です…がぎぐ", "はい"],
    "korean": ["빠른 시작", "먼저 패키지(패키지)를 설치한 다음 다시 시작하세요.", "가격", "끝났어요!", "네"],
    "emoji": ["🚀 Launch 🇳🇴🇸🇪", "Ship it 👨‍👩‍👧‍👦 now 👍🏽, later 🏳️‍🌈.", "💰", "Done ✅ – 1️⃣ of 2️⃣", "❤️"],
    "combining": ["Z̷a̸l̵g̶o̷", "Café naïve e\u0301te\u0301, ñandú n\u0303.", "q̃", "a\u0308o\u0308u\u0308 ﷺ", "å̊"],
}
"""A heading, a sentence, a word, a remark, and a short word."""

FORMS = (
    "# {0}\n\n{1} **{2}** and *{3}*, `{4}`.\n\n## {0} 2\n\n- {1}\n- {4}",
    '{1}\n\n```python\ndef main(name: str = "{2}") -> None:\n    # {3}\n    print(f"<{{name}}>" * 2 ** 3)\n```\n\n{3}',
    '1. {0}\n   ```bash\n   git clone <url> && cd <dir> || exit\n   export PATH="$HOME/bin:$PATH" #{4}\n   ```\n2. {1}',
    '- {0}\n    ```json\n    {{"key": ["{2}", null, 1.5e-3], "a|b": "<x>"}}\n    ```\n- {3}',
    "| {2} | {4} | n |\n|:---|:---:|---:|\n| {4} | **{2}** | $1,000 |\n| `a` | {4} | 50 % |\n\n{3}",
    "{0}:\n\n| {2} | Description |\n| --- | --- |\n| {4} | {1} {1} |\n| x | {3} <br> {4} |\n\n{1}",
    "{3}\n\n- [ ] {1}\n- [x] {2}\n- [X] **{4}**\n  - [ ] {2}: {4}",
    "> {1}\n> **{2}** {3}\n>\n> — {4}\n\n{0}",
    "{1} [{2}](https://example.com/{2}?q=1&r=2) — ![{4}](https://example.com/a.png) <https://example.com/x_y>.",
    "{0} $E = mc^2$, \\(a_1 + b_1\\) {4}\n\n$$\n\\int_0^1 x^2\\,dx = \\frac{{1}}{{3}}\n$$\n\n{3}",
    "\\[\n\\begin{{pmatrix}} 1 & 2 \\\\ 3 & 4 \\end{{pmatrix}}\n\\]\n\n{1} $5, $10 & $20 {3}",
    '<details>\n<summary>{0}</summary>\n\n{1}\n\n</details>\n\n<div align="center">\n{3}\n</div>',
    "{1} <b>{2}</b>, H<sub>2</sub>O, <kbd>Ctrl</kbd>+<kbd>C</kbd>; List<String> x = a < b && c > d; {4}",
    "{0}: `$HOME/.config`, {2} || {4}, ~5 {4}, C:\\Users\\{4}, __init__, snake_case_name, 2*3*4, a**b, #{4} @{4}",
    "1. {0}\n2. {1}\n   - {2}\n     - {4}\n       1. {3}\n3. {4}\n\n   {1}\n\n10. {2}",
    "1. {0}\n1. {2}\n1. {4}\n\n* {1}\n+ {3}",
    "**{0}**\n{1}  \n{3}\\\n{4}\n\n---\n\n~~{2}~~ __{1}__ _{4}_ ***{2}***",
    "{1}**“{2}”**{1}**{4}**{3}",
    "{0}\n=====\n\n{1}\n-----\n{3} AT&amp;T &lt;{4}&gt; &copy;",
    "{1} [1]\n\n[1]: https://example.com/{4}\n\n{3}[^1]\n\n[^1]: {1}",
    "````md\n```py\n{2}\n```\n````\n\n~~~text\n{1}\n~~~\n\n```\n{3}",
    '<think>\n{1}\n</think>\n\n{3} <!-- {4} --> <tool_call>{{"name": "{4}"}}</tool_call>',
    "> ```sql\n> SELECT * FROM t WHERE a <> '{4}' -- {2}\n> ```\n> {3}\n\n1) {1}\n2) {4}",
    "{1} " * 12 + "\n\n" + "- **{2}:** {1} `{4}` {3}\n" * 6,
    "```diff\n- {4}\n+ {2}\n@@ -1,2 +1,2 @@ <{4}>\n```\n" + "| {2} | {4} |\n|---|---|\n" + "| {4} | {2} |\n" * 8,
    '{1} [{2}](./README.md "{4}") [{4}](mailto:a@example.com) [![{4}](https://e.com/i.svg)](https://e.com) {3}',
)

FOUND = (
    "Use `List<String>` or in text: List<String> and Map<K, V>, also std::vector<int>.",
    "Replace <your-api-key> and <YOUR_NAME> with your own.",
    "Write to <ann@example.com> or <https://example.com>.",
    "Use the regex ^\\d+\\.\\w*$ and path C:\\Users\\ann\\new",
    "See [wiki](https://en.wikipedia.org/wiki/Foo_(bar)) and https://en.wikipedia.org/wiki/Foo_(bar).",
    "a ` b and ** c and _ d and [ e ](",
    "{{ template }} {% if x %} a -> b <- c <-> d => e <= f; x<y; 1<2>3",
    "- a\n\n      ```sh\n      ls\n      ```\n- - b\n  > c\n\n\n\n- \n",
    "1. Do:\n   ```sh\nls -la <dir>\n   ```\n2. Then **go**.",
    "| a | b |\n|---|---|\n| 1 | 2 | 3 | 4 |\n| `x || y` | \\| |\nnot a row",
    "[x](http://) [y](not a url) [z]() [](https://example.com) ![](https://example.com/a.png) [j](javascript:alert(1))",
    '```python title="a.py" {1,3}\nprint(1)\n```',
    "> a\n>> b\n>>> c\n\n> > d",
    "**bold *both** it*",
    "<b>a **b</b> c** <i>d <u>e</i> f</u> <code>x **y** z</code>",
    "\r\n# a\r\n- b\r\n\r\n```\r\nc\r\n```\r\n",
    "\u200b\u2066x\u2069 \x00 \ufeff",
    "\\[1\\] \\*no\\* 1\\. Hello\\! \\_x\\_",
)
"""What one converter or another lost, or sent raw."""


def samples() -> Iterator[tuple[str, str]]:
    """Every form in every script, with its name."""
    for script, phrases in PHRASES.items():
        for number, form in enumerate(FORMS):
            yield f"{script}-{number}", form.format(*phrases)
    mixed = cycle(phrase for phrases in PHRASES.values() for phrase in phrases[1:])
    for number, form in enumerate(FORMS):
        yield f"mixed-{number}", form.format(*islice(mixed, 5))
    for number, found in enumerate(FOUND):
        yield f"found-{number}", found
