/* flash_file: the file with the content of a flash memory, for the variables of a VM's UEFI. Each write is a record in
 * a journal first, so after a crash or a power cut at any moment the content is that of before or after the write.
 *
 * The file, little endian; N is the size of the flash memory:
 *   0                          the content, N bytes, as other tools know it
 *   N + k * (4096 + N)         record k of the journal, k = 0 and 1, in turns:
 *       0  u64  magic 0x3148534C464E5243 ("CRNFLSH1"); a page of zeros: no record
 *       8  u64  sequence number, above that of the other record
 *      16  u32  first byte of the content, a multiple of 4096
 *      20  u32  length, a multiple of 4096
 *      24  u32  CRC32C of bytes 0 to 23 and the data
 *    4096       the data
 * A file of exactly N bytes has no journal yet. A file without a valid record and with zeros only is a new one.
 *
 * Threading: one thread at a time. */
#ifndef CAIRN_DEVICES_LEGACY_FLASH_FILE_H
#define CAIRN_DEVICES_LEGACY_FLASH_FILE_H

#include <stdint.h>

struct err;

#define FLASH_BLOCK_BYTES 4096u
#define FLASH_MIN_BYTES FLASH_BLOCK_BYTES
#define FLASH_MAX_BYTES (4u << 20)

struct flash_file {
	int fd; /* borrowed */
	uint32_t bytes;
	uint64_t sequence; /* of the last record */
};

/* Open the file and read its content; redo the writes that its journal has. A new or empty file gets the template's
 * content.
 * template_fd: a file that gives the flash memory its size, a multiple of 4096. Both borrowed.
 * ret_content: bytes of memory; the caller frees them.
 * Returns 0; -EINVAL: a file has another size; -errno. */
int flash_file_open(struct flash_file *f, int fd, int template_fd, uint8_t **ret_content, struct err *e);
/* Get the size that a template gives the flash memory. Returns 0; -EINVAL: it is not allowed; -errno. */
int flash_template_size(int fd, uint32_t *ret, struct err *e);
/* Write [off, off + len) of content, both multiples of 4096, and wait until it is on disk. Any thread; no library
 * call but pwrite() and fdatasync(). Returns 0 or -errno; after a failure the file still has the old content or the
 * new one. */
int flash_file_write(struct flash_file *f, const uint8_t *content, uint32_t off, uint32_t len);

#endif
