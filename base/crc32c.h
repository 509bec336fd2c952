/* crc32c: Castagnoli CRC (RFC 3720, appendix B.4), with SSE4.2 where the CPU has it. */
#ifndef CAIRN_BASE_CRC32C_H
#define CAIRN_BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Continue a checksum over len more bytes. crc: the result so far; 0 to begin.
 * Returns the new checksum. */
uint32_t crc32c(uint32_t crc, const void *data, size_t len);

#endif
