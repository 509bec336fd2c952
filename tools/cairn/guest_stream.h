/* guest_stream: output of a program in the guest, for a terminal or a result in JSON. */
#ifndef CAIRN_TOOLS_GUEST_STREAM_H
#define CAIRN_TOOLS_GUEST_STREAM_H

#include <stdbool.h>
#include <stddef.h>

struct json_object;

/* Replace escape sequences and other control characters for a terminal: only a program with a terminal of its own may
 * control the user's. C1 controls are C2 80 to C2 9F in UTF-8.
 * after_c2: whether the data before ended with C2; NULL: there is none. Updated. */
void guest_stream_hide_controls(char *data, size_t len, bool *after_c2);
/* Add a stream to the result: as text, or as NAME-base64 if it is not plain text. data: has a NUL behind it. */
void guest_stream_put(struct json_object *o, const char *name, const char *data, size_t len);

#endif
