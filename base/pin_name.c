#include "base/pin_name.h"
#include "base/hex.h"

#include <string.h>

bool pin_name_parse(const char *name, size_t *ret_path_bytes, uint8_t ret_id[PIN_NAME_ID_BYTES])
{
	size_t n = strlen(name), tail = sizeof(PIN_NAME_SNAPSHOT) - 1 + 2 * PIN_NAME_ID_BYTES;
	const char *snapshot = name + n - tail;

	if (n <= PIN_NAME_PATH_AT + tail || strncmp(name, PIN_NAME_PROTOCOL, PIN_NAME_PATH_AT) ||
		strncmp(snapshot, PIN_NAME_SNAPSHOT, sizeof(PIN_NAME_SNAPSHOT) - 1) ||
		!hex_parse(snapshot + sizeof(PIN_NAME_SNAPSHOT) - 1, ret_id, PIN_NAME_ID_BYTES))
		return false;
	*ret_path_bytes = n - tail - PIN_NAME_PATH_AT;
	return true;
}
