#include "tools/shell/words.h"
#include "base/util.h"

#include <stdlib.h>
#include <string.h>

/* Copy a quoted part to *to. *p is behind the opening quote, then behind the closing one. Returns false if it is
 * missing. */
static bool quote_take(const char **p, char quote, char **to)
{
	for (; **p; ++*p) {
		if (**p == quote) {
			++*p;
			return true;
		}
		if (quote == '"' && **p == '\\' && ((*p)[1] == '"' || (*p)[1] == '\\'))
			++*p;
		*(*to)++ = **p;
	}
	return false;
}

/* Take a word. Returns NULL; a sentence. */
static const char *word_take(const char **p, struct words *w)
{
	char *word = must_alloc(malloc(strlen(*p) + 1)), *to = word;
	const char *wrong = NULL;

	while (**p && !strchr(" \t\r\n;", **p) && !wrong) {
		char c = *(*p)++;

		if (c == '\'' || c == '"')
			wrong = quote_take(p, c, &to) ? NULL : "a quote is not closed";
		else if (c == '\\' && !**p)
			wrong = "nothing follows the last \\";
		else
			*to++ = c == '\\' ? *(*p)++ : c;
	}
	*to = 0;
	w->list[w->n++] = word;
	return wrong;
}

const char *words_take(const char **line, struct words *ret)
{
	const char *wrong = NULL;

	*ret = (struct words){ 0 };
	while (!wrong) {
		*line += strspn(*line, " \t\r\n");
		if (**line == '#')
			*line += strlen(*line);
		if (!**line || **line == ';')
			break;
		wrong = ret->n == WORDS_MAX ? "the line has too many words" : word_take(line, ret);
	}
	*line += **line == ';';
	return wrong;
}

void words_done(struct words *w)
{
	while (w->n)
		free(w->list[--w->n]);
}
