#include "base/uuid.h"
#include "base/err.h"
#include "base/hex.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

bool uuid_is_set(const uint8_t uuid[UUID_BYTES])
{
	static const uint8_t none[UUID_BYTES];

	return memcmp(uuid, none, UUID_BYTES) != 0;
}

int uuid_make(uint8_t uuid[UUID_BYTES], struct err *e)
{
	if (getrandom(uuid, UUID_BYTES, 0) != UUID_BYTES)
		return err_set_errno(e, -errno, "cannot make a uuid");
	uuid[6] = (uint8_t)((uuid[6] & 0x0f) | 0x40);
	uuid[8] = (uint8_t)((uuid[8] & 0x3f) | 0x80);
	return 0;
}

void uuid_print(const uint8_t uuid[UUID_BYTES], char text[UUID_TEXT])
{
	char hex[2 * UUID_BYTES + 1];

	hex_print(uuid, UUID_BYTES, hex);
	snprintf(text, UUID_TEXT, "%.8s-%.4s-%.4s-%.4s-%.12s", hex, hex + 8, hex + 12, hex + 16, hex + 20);
}

int uuid_parse(const char *text, uint8_t uuid[UUID_BYTES])
{
	uint8_t out[UUID_BYTES];

	for (unsigned i = 0; i < UUID_BYTES; i++) {
		if ((i == 4 || i == 6 || i == 8 || i == 10) && *text == '-')
			text++;
		if (!hex_parse(text, &out[i], 1))
			return -EINVAL;
		text += 2;
	}
	if (*text)
		return -EINVAL;
	memcpy(uuid, out, UUID_BYTES);
	return 0;
}
