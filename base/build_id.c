#include "base/build_id.h"
#include "base/cleanup.h"
#include "base/util.h"

#include <elf.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define HEAD_BYTES 4096 /* the notes follow the program headers */

/* The linker defines it: the first byte of this program in memory, which is laid out there as in its file. */
extern const uint8_t __ehdr_start[] __attribute__((visibility("hidden")));

/* Return the id in a segment of notes. */
static uint64_t id_in_notes(const uint8_t *notes, size_t len)
{
	Elf64_Nhdr h;
	uint64_t id;

	while (len >= sizeof(h)) {
		memcpy(&h, notes, sizeof(h));
		size_t name = ROUND_UP((size_t)h.n_namesz, 4), desc = ROUND_UP((size_t)h.n_descsz, 4), all = sizeof(h) + name + desc;

		if (all > len)
			return 0;
		if (h.n_type == NT_GNU_BUILD_ID && h.n_namesz == sizeof(ELF_NOTE_GNU) && h.n_descsz >= sizeof(id) &&
			!memcmp(notes + sizeof(h), ELF_NOTE_GNU, sizeof(ELF_NOTE_GNU))) {
			memcpy(&id, notes + sizeof(h) + name, sizeof(id));
			return id;
		}
		notes += all;
		len -= all;
	}
	return 0;
}

uint64_t build_id_in(const uint8_t *head, size_t len)
{
	Elf64_Ehdr e;
	Elf64_Phdr p;
	uint64_t id = 0;

	if (len < sizeof(e) || memcmp(head, ELFMAG, SELFMAG) || head[EI_CLASS] != ELFCLASS64)
		return 0;
	memcpy(&e, head, sizeof(e));
	if (e.e_phentsize != sizeof(p) || e.e_phoff > len || e.e_phnum > (len - e.e_phoff) / sizeof(p))
		return 0;
	for (unsigned i = 0; i < e.e_phnum && !id; i++) {
		memcpy(&p, head + e.e_phoff + i * sizeof(p), sizeof(p));
		if (p.p_type == PT_NOTE && p.p_offset <= len && p.p_filesz <= len - p.p_offset)
			id = id_in_notes(head + p.p_offset, p.p_filesz);
	}
	return id;
}

uint64_t build_id_of(const char *path)
{
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint8_t head[HEAD_BYTES];
	ssize_t n = fd < 0 ? -1 : pread(fd, head, sizeof(head), 0);

	return n > 0 ? build_id_in(head, (size_t)n) : 0;
}

uint64_t build_id_own(void)
{
	return build_id_in(__ehdr_start, HEAD_BYTES);
}
