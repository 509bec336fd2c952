#include "devices/legacy/flash_state.h"
#include "base/cleanup.h"
#include "devices/legacy/flash_file.h"
#include "snapshot/state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int flash_blocks_take(struct state_reader *r, uint8_t *content, uint32_t bytes)
{
	uint32_t least = 0;

	memset(content, FLASH_ERASED, bytes);
	while (!r->failed && r->pos < r->len) {
		uint32_t i = state_u32(r);

		if (r->failed || i < least || i >= bytes / FLASH_BLOCK_BYTES)
			return -EINVAL;
		state_bytes(r, content + (size_t)i * FLASH_BLOCK_BYTES, FLASH_BLOCK_BYTES);
		least = i + 1;
	}
	return r->failed ? -EINVAL : 0;
}

static void command_skip(struct state_reader *r)
{
	uint8_t buffer[FLASH_BUFFER_BYTES];
	uint16_t filled;

	state_bytes(r, buffer, 3 + 2 + 4);
	filled = state_u16(r);
	if (filled > sizeof(buffer))
		r->failed = true;
	else
		state_bytes(r, buffer, filled);
}

int flash_content_take(struct state_reader *r, uint8_t **ret_content, uint32_t *ret_bytes)
{
	CLEANUP_FREE uint8_t *content = NULL;
	uint32_t bytes = state_u32(r);

	command_skip(r);
	if (r->failed || bytes < FLASH_MIN_BYTES || bytes > FLASH_MAX_BYTES || bytes % FLASH_BLOCK_BYTES)
		return -EINVAL;
	content = malloc(bytes);
	if (!content)
		return -ENOMEM;
	if (flash_blocks_take(r, content, bytes) < 0)
		return -EINVAL;
	*ret_content = STEAL_PTR(content);
	*ret_bytes = bytes;
	return 0;
}
