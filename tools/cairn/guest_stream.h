/* guest_stream: output of a program in the guest, for a terminal or a result in JSON. */
#ifndef CAIRN_TOOLS_GUEST_STREAM_H
#define CAIRN_TOOLS_GUEST_STREAM_H

#include <stddef.h>

struct json_object;
struct utf8_stream;

/* Replace escape sequences and other control characters for a terminal: only a program with a terminal of its own may
 * control the user's.
 * stream: the state after the previous pieces; NULL: none. Updated. */
void guest_stream_hide_controls(char *data, size_t len, struct utf8_stream *stream);
/* Add a stream to the result: as text, or as NAME-base64 if it is not plain text. data: has a NUL behind it. */
void guest_stream_put(struct json_object *o, const char *name, const char *data, size_t len);

#endif
