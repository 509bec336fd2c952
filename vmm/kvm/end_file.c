#include "vmm/kvm/end_file.h"
#include "base/log.h"
#include "vmm/vm_msg.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE_BYTES 4096

static void *volatile end_page; /* NULL: none */

_Static_assert(sizeof(struct vm_event) <= VM_END_RAN && VM_END_RAN + sizeof(uint64_t) <= PAGE_BYTES, "both fit the page");

void end_file_take(int fd)
{
	struct stat st;
	void *page = MAP_FAILED;

	/* Beyond the file's end, a write would raise SIGBUS. */
	if (end_page || fstat(fd, &st) < 0 || st.st_size < PAGE_BYTES ||
		(page = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) == MAP_FAILED) {
		if (!end_page)
			log_warn(NULL, "the end file cannot be mapped: %s", strerror(errno));
	} else {
		end_page = page;
	}
	close(fd);
}

void end_file_guest_runs(void)
{
	uint64_t ran = VM_RAN_YES;

	if (end_page)
		memcpy((uint8_t *)end_page + VM_END_RAN, &ran, sizeof(ran));
}

void end_file_write(const struct vm_event *ev)
{
	if (end_page)
		memcpy(end_page, ev, sizeof(*ev));
}
