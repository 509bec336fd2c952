/* pin_name: parses the name by which the overlay of a fork's disk refers to a pin, a kept state of its backing image:
 * cairn-fork:PATH?snapshot=ID (docs/qcow2.md, "Pins"). */
#ifndef CAIRN_BASE_PIN_NAME_H
#define CAIRN_BASE_PIN_NAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PIN_NAME_PROTOCOL "cairn-fork:"
#define PIN_NAME_PATH_AT (sizeof(PIN_NAME_PROTOCOL) - 1)
#define PIN_NAME_SNAPSHOT "?snapshot="
#define PIN_NAME_ID_BYTES 16
/* A pin is a snapshot of its image, with this and the id in hexadecimal as its name. */
#define PIN_NAME_IN_IMAGE "cairn-pin-"

/* Parse a name.
 * ret_path_bytes: the length of PATH, which begins at PIN_NAME_PATH_AT.
 * Returns false if the name has another form. */
bool pin_name_parse(const char *name, size_t *ret_path_bytes, uint8_t ret_id[PIN_NAME_ID_BYTES]);

#endif
