/* Frees unused space to the file system: punches holes and cuts the end. */
#include "base/err.h"
#include "block/qcow2/check_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>
#include <unistd.h>

static bool is_free(const struct checker *k, uint64_t c)
{
	return !k->used[c] && !k->refs[c];
}

static int holes_punch(struct checker *k, uint64_t end, struct err *e)
{
	for (uint64_t c = 0, from; c < end; c++) {
		if (!is_free(k, c))
			continue;
		for (from = c; c < end && is_free(k, c);)
			c++;
		if (fallocate(k->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			(off_t)(from << k->cluster_bits), (off_t)((c - from) << k->cluster_bits)) < 0)
			return err_set_errno(e, -errno, "the file system cannot punch holes");
	}
	return 0;
}

static int image_trim(struct checker *k, struct err *e)
{
	uint64_t end = k->n;
	struct stat st;
	int r;

	while (end && is_free(k, end - 1))
		end--;
	r = holes_punch(k, end, e);
	if (r < 0 || fstat(k->fd, &st) < 0 || !S_ISREG(st.st_mode))
		return r;
	if ((uint64_t)st.st_size > end << k->cluster_bits &&
		ftruncate(k->fd, (off_t)(end << k->cluster_bits)) < 0)
		return err_set_errno(e, -errno, "cannot cut the file's end");
	return fdatasync(k->fd) < 0 ? err_set_errno(e, -errno, "cannot sync") : 0;
}

int qcow2_trim(int fd, const struct qcow2_header *h, struct err *e)
{
	struct qcow2_check scratch = { 0 };
	struct qcow2_header now = *h;
	struct checker k;
	int r = checker_run(&k, fd, h, &scratch, e);

	/* If a refcount is too low, a cluster that looks free may be in use. */
	for (uint64_t c = 0; !r && c < k.n; c++)
		if (k.refs[c] < k.used[c])
			scratch.corruptions++;
	if (!r && (scratch.errors || scratch.corruptions))
		r = err_set(e, -EUCLEAN, ERR_CORRUPT, "the image has faults; repair it with `cairn-img "
			"check -r all` first");
	if (!r) {
		r = qcow2_autoclear_drop(fd, &now, 0);
		if (r < 0)
			err_set_errno(e, r, "cannot write the header");
	}
	if (!r)
		r = image_trim(&k, e);
	checker_done(&k);
	return r;
}
