/* writer: write XML like libvirt: two spaces a level, single quotes, one element a line. Attributes are pairs of name
 * and value, ended by NULL; a pair with a NULL value is omitted. */
#ifndef CAIRN_TOOLS_XML_WRITER_H
#define CAIRN_TOOLS_XML_WRITER_H

#include <stdio.h>

struct writer {
	FILE *f;
	char *text;
	size_t len;
	unsigned depth;
};

/* Returns 0 or -ENOMEM. */
int writer_init(struct writer *w);
/* Returns the XML; the caller frees it. NULL: no memory. */
char *writer_finish(struct writer *w);

void writer_open(struct writer *w, const char *name, ...) __attribute__((sentinel));
void writer_close(struct writer *w, const char *name);
void writer_leaf(struct writer *w, const char *name, ...) __attribute__((sentinel));
void writer_text(struct writer *w, const char *name, const char *text, ...)
	__attribute__((sentinel));

#endif
