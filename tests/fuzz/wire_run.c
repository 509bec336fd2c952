#include "tests/fuzz/fuzz_api.h"

#include "api/wire/json.h"
#include "api/wire/wire.h"
#include "base/err.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Output: the texts as lines, and a mark for each fault. */
struct out {
	char *text;
	size_t len, cap;
	unsigned texts;
	bool over;
};

static void out_add(struct out *o, const char *text, size_t len)
{
	if (o->len + len > o->cap) {
		o->cap = 2 * (o->len + len);
		o->text = realloc(o->text, o->cap);
		must(o->text);
	}
	memcpy(o->text + o->len, text, len);
	o->len += len;
}

static void text_add(struct out *out, struct json_object *o)
{
	struct json_object *again = NULL;
	char *line, *second;
	size_t len, second_len;

	line = js_line(o, &len);
	must(line && len >= 2 && line[len - 2] == '\r' && line[len - 1] == '\n' && !line[len]);
	for (size_t i = 0; i < len - 2; i++)
		must(line[i] >= ' ' && line[i] < 0x7f);
	must(js_line_bytes(o) == len);
	/* The line parses to the same text. */
	must(js_parse(line, len, "line", &again, NULL) == 0);
	second = js_line(again, &second_len);
	must(second_len == len && !memcmp(line, second, len));
	free(second);
	json_object_put(again);
	out_add(out, line, len);
	out->texts++;
	free(line);
}

static void feed(struct wire *w, struct out *out, const char *data, size_t len)
{
	/* A buffer of its own, so that the sanitizer sees a read past its end. */
	char *piece = malloc(len ? len : 1);

	must(piece);
	memcpy(piece, data, len);
	for (size_t at = 0, used; at < len && !out->over; at += used) {
		struct json_object *o = NULL;
		struct err e = { .msg = "" };
		enum wire_result r = wire_feed(w, piece + at, len - at, &used, &o, &e);

		must(used > 0 && used <= len - at && w->len <= w->cap && w->len <= WIRE_TEXT_MAX + 1);
		must(r == WIRE_MORE ? at + used == len : true);
		if (r == WIRE_TEXT)
			text_add(out, o);
		else if (r != WIRE_MORE)
			must(e.msg[0]);
		if (r == WIRE_ERROR)
			out_add(out, "!", 1);
		out->over = r == WIRE_FATAL;
		json_object_put(o);
	}
	free(piece);
}

/* Feed data in pieces of `piece` bytes; 0: its first two bytes give the places to cut. */
static struct out run(const char *data, size_t len, size_t piece)
{
	struct out out = { 0 };
	struct wire w;

	wire_init(&w, NULL);
	for (size_t at = 0, n = 0; at < len; at += n) {
		n = piece ? piece : 1 + ((unsigned char)data[at % 2] + at) % 37;
		n = n < len - at ? n : len - at;
		feed(&w, &out, data + at, n);
	}
	/* After any input, 0xFF resynchronizes the stream. */
	if (!out.over) {
		static const char peace[] = "\xff{\"a\":1}";
		unsigned before = out.texts;

		feed(&w, &out, peace, sizeof(peace) - 1);
		must(out.texts == before + 1);
	}
	wire_done(&w);
	return out;
}

unsigned wire_run(const uint8_t *input, size_t len)
{
	const char *data = (const char *)input;
	struct out whole;

	if (!len || len > WIRE_INPUT_MAX)
		return 0;
	whole = run(data, len, len);
	for (size_t piece = 0; piece < 2; piece++) {
		struct out cut = run(data, len, piece);

		must(cut.texts == whole.texts && cut.len == whole.len && !memcmp(cut.text, whole.text, cut.len));
		free(cut.text);
	}
	free(whole.text);
	return whole.texts - !whole.over;
}
