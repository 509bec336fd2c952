/* flash_state: the content of a flash memory in a VM's state, for the device and for an archive. The section of the
 * device "pflash" has these fields:
 *   u32  bytes of the flash memory
 *   u8   command, cycle and status, one each; u16 bytes to come; u32 offset; u16 n; u8[n] buffer: a command under way
 *   the blocks of 4 KiB that are not erased, in order: u32 number, u8[4096] content
 * Threading: none. */
#ifndef CAIRN_DEVICES_LEGACY_FLASH_STATE_H
#define CAIRN_DEVICES_LEGACY_FLASH_STATE_H

#include <stdint.h>

struct state_reader;

#define FLASH_STATE_VERSION 1
#define FLASH_ERASED 0xff
#define FLASH_BUFFER_BYTES 256u

/* Read the blocks, to the end of the section. content: bytes of memory. Returns 0 or -EINVAL. */
int flash_blocks_take(struct state_reader *r, uint8_t *content, uint32_t bytes);
/* Read the content from a whole section. The caller frees *ret_content. Returns 0; -EINVAL: malformed; -ENOMEM. */
int flash_content_take(struct state_reader *r, uint8_t **ret_content, uint32_t *ret_bytes);

#endif
