/* wire: QMP's framing. Splits a stream of bytes into complete JSON texts, independently of packet boundaries. It
 * knows no commands.
 *
 * A text begins at a brace or a bracket and ends when all of them are closed. Bytes between texts that are not white
 * space give one error and are skipped up to the next line, brace, bracket or 0xFF. A byte 0xFF resets the parser.
 * A text with a duplicate key, NaN, Infinity, or an integer below -2^63 or above 2^64 - 1 is refused.
 *
 * Threading: one thread at a time uses a struct wire. */
#ifndef CAIRN_API_WIRE_WIRE_H
#define CAIRN_API_WIRE_WIRE_H

#include <stdbool.h>
#include <stddef.h>

struct err;
struct json_object;

/* Limit in bytes of one text, and of the garbage between two texts. */
#define WIRE_TEXT_MAX (1024 * 1024)

#define WIRE_KEEP_BYTES 4096 /* largest buffer that stays allocated between two texts */

struct wire_limits {
	size_t text_bytes; /* of one text; at most WIRE_TEXT_MAX */
	size_t nodes;	   /* of one text: braces, brackets, commas and colons outside strings */
};

enum wire_result {
	WIRE_MORE,    /* all bytes used, no whole text yet */
	WIRE_TEXT,    /* *ret_o is set */
	WIRE_ERROR,   /* the error is for the client; the stream continues. *ret_o is set if the text can be read */
	WIRE_FATAL,   /* the error is for the client; hang up after it */
};

struct wire {
	const struct wire_limits *limits; /* borrowed; may be replaced between two calls of wire_feed() */
	char *buf;
	size_t len, cap;
	size_t skipped;	 /* bytes of garbage or of a refused text since the last text */
	size_t nodes;	 /* of the current text */
	size_t members;	 /* of the objects of the current text, each as often as it is written */
	size_t cost;	 /* bytes that the last parsed text takes, about */
	unsigned depth;
	char quote;	 /* inside a string: its closing quote; else 0 */
	bool escaped;
	bool discarding; /* the current text is refused; skip to its end */
	bool garbage;	 /* skipping bytes between texts; the error was reported */
};

/* limits: borrowed; NULL: WIRE_TEXT_MAX bytes, any number of nodes. */
void wire_init(struct wire *w, const struct wire_limits *limits);
void wire_done(struct wire *w);

/* Feed bytes. Stops after the first text or error.
 * ret_used:  bytes used, at least one unless len is 0; call again with the rest.
 * ret_o:     the parsed text, owned by the caller; unchanged if there is none. */
enum wire_result wire_feed(struct wire *w, const char *data, size_t len, size_t *ret_used,
	struct json_object **ret_o, struct err *e);

#endif
