#include "tools/xml/writer.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>

int writer_init(struct writer *w)
{
	*w = (struct writer){ 0 };
	w->f = open_memstream(&w->text, &w->len);
	return w->f ? 0 : -ENOMEM;
}

char *writer_finish(struct writer *w)
{
	return fclose(w->f) == 0 ? w->text : NULL;
}

/* Escape text. A tab or newline in an attribute would be read back as a space; a quote needs no escape in a text. */
static void text_escape(struct writer *w, const char *s, bool attribute)
{
	for (; *s; s++)
		switch (*s) {
		case '<':
			fputs("&lt;", w->f);
			break;
		case '>':
			fputs("&gt;", w->f);
			break;
		case '&':
			fputs("&amp;", w->f);
			break;
		case '\'':
			fputs(attribute ? "&apos;" : "'", w->f);
			break;
		case '"':
			fputs(attribute ? "&quot;" : "\"", w->f);
			break;
		case '\t':
		case '\n':
		case '\r':
			fprintf(w->f, "&#%d;", *s);
			break;
		default:
			fputc(*s, w->f);
		}
}

static void tag_write(struct writer *w, const char *name, va_list ap)
{
	const char *key;

	fprintf(w->f, "%*s<%s", (int)w->depth * 2, "", name);
	while ((key = va_arg(ap, const char *))) {
		const char *value = va_arg(ap, const char *);

		if (!value)
			continue;
		fprintf(w->f, " %s='", key);
		text_escape(w, value, true);
		fputc('\'', w->f);
	}
}

void writer_open(struct writer *w, const char *name, ...)
{
	va_list ap;

	va_start(ap, name);
	tag_write(w, name, ap);
	va_end(ap);
	fputs(">\n", w->f);
	w->depth++;
}

void writer_close(struct writer *w, const char *name)
{
	w->depth--;
	fprintf(w->f, "%*s</%s>\n", (int)w->depth * 2, "", name);
}

void writer_leaf(struct writer *w, const char *name, ...)
{
	va_list ap;

	va_start(ap, name);
	tag_write(w, name, ap);
	va_end(ap);
	fputs("/>\n", w->f);
}

void writer_text(struct writer *w, const char *name, const char *text, ...)
{
	va_list ap;

	va_start(ap, text);
	tag_write(w, name, ap);
	va_end(ap);
	fputc('>', w->f);
	text_escape(w, text, false);
	fprintf(w->f, "</%s>\n", name);
}
