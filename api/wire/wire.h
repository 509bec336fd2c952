/* wire: QMP's framing. Bytes in, whole JSON texts out, however they were cut into
 * packets. Nothing here knows a command.
 *
 * A text begins at a brace or a bracket and ends when all are closed; what else stands
 * between texts is an error, once, and is skipped up to the next line, brace or 0xFF. A
 * byte 0xFF forgets everything. */
#ifndef CAIRN_API_WIRE_WIRE_H
#define CAIRN_API_WIRE_WIRE_H

#include <stdbool.h>
#include <stddef.h>

struct err;
struct json_object;

/* Of one text, and of anything that is skipped. */
#define WIRE_TEXT_MAX (1024 * 1024)

enum wire_result {
	WIRE_MORE,    /* all bytes taken, no whole text yet */
	WIRE_TEXT,    /* *ret_o is set */
	WIRE_ERROR,   /* a sentence for the client; the stream goes on */
	WIRE_FATAL,   /* a sentence; the stream cannot be trusted any more */
};

struct wire {
	char *buf;
	size_t len, cap;
	size_t skipped;	 /* bytes of garbage since the last text */
	unsigned depth;
	char quote;	 /* inside a string: what ends it */
	bool escaped;
	bool discarding; /* the present text is refused; wait for its end */
	bool garbage;	 /* between texts, after an error */
};

void wire_init(struct wire *w);
void wire_done(struct wire *w);
/* Forget what is half-read. */
void wire_reset(struct wire *w);

/* Feed bytes; stops behind the first text or error. *ret_used: how many were taken (at
 * least one when len is not 0); call again with the rest. *ret_o: the caller puts it. */
enum wire_result wire_feed(struct wire *w, const char *data, size_t len, size_t *ret_used,
	struct json_object **ret_o, struct err *e);

#endif
