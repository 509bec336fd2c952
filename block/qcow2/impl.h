/* impl: the internals of the qcow2 engine.
 *
 * A metadata transaction (look up, allocate, publish) runs on the loop's thread from beginning to
 * end without I/O, on tables in memory. If a slice of a table is missing, the transaction has
 * changed nothing yet. It waits for the slice and starts again from the top. So there are no locks
 * and no partial changes.
 *
 * Changed slices stay in memory. A commit (commit.c) writes them in ordered groups. docs/qcow2.md
 * has the order and the reason why it is safe. */
#ifndef CAIRN_BLOCK_QCOW2_IMPL_H
#define CAIRN_BLOCK_QCOW2_IMPL_H

#include "base/bitmap.h"
#include "base/budget.h"
#include "base/bytes.h"
#include "block/block_impl.h"
#include "block/io.h"
#include "block/qcow2/qcow2.h"

struct block_snapshot_wait;
struct cursor;
struct qcow2;

/* A continuation: runs after a slice was read, an allocation published, and so on. */
struct wait {
	struct wait *next;
	void (*run)(struct wait *w, int res); /* res < 0: the awaited operation failed */
};
struct wait_list {
	struct wait *head, **tail;
};
void wait_list_init(struct wait_list *l);
void wait_list_add(struct wait_list *l, struct wait *w);
/* Append all entries of `from` to `to`; `from` is then empty. */
void wait_list_move(struct wait_list *to, struct wait_list *from);
/* Run each entry once. Entries that queue again during the call go to the emptied list. */
void wait_list_wake(struct wait_list *l, int res);

/* ---- cache.c: tables in slices ---- */

#define QCOW2_SLICE_BYTES_MAX 4096u

struct slice {
	struct cache *cache;
	uint64_t offset;		 /* offset of the slice in the file */
	struct slice *hash_next;
	struct slice *lru_prev, *lru_next; /* most recently used first */
	struct slice *dirty_prev, *dirty_next;
	uint8_t *data;
	unsigned pins; /* > 0: not evicted */
	bool loading, dirty, dropped;
	struct wait_list waiters;
	struct io io;
	struct iovec iov;
};

struct cache {
	struct qcow2 *q;
	uint32_t slice_bytes;
	unsigned max, count, ndirty;
	unsigned bound;	   /* max grows up to this while evicted slices are wanted again */
	unsigned wanted;   /* such slices since it grew last */
	uint32_t *evicted; /* numbers of slices that were evicted last, by hash; NULL: not noted */
	unsigned evicted_bits;
	unsigned hash_bits;
	struct slice **hash;
	struct slice *lru_head, *lru_tail;
	struct slice *dirty_head;
	struct slice *spare;	   /* freed slices, linked by hash_next */
	struct cache_slab *slabs;  /* memory of all slices; slab_left slices of the first slab are unused */
	unsigned slab_left;
	struct l2_runs *runs; /* evicted L2 slices in short form; NULL: not kept */
	struct qcow2_warm *warm; /* slices of another process; only read-only images have them; NULL: none */
};

/* bytes_bound: the cache grows from bytes_max up to this while it evicts slices that are wanted again soon. */
int cache_init(struct cache *c, struct qcow2 *q, uint32_t slice_bytes, uint64_t bytes_max, uint64_t bytes_bound);
void cache_done(struct cache *c);
/* Get the slice at `offset`.
 * ret_s: valid until the next call that may evict; pin it to keep it.
 * Returns 0; -EINPROGRESS: w runs after the read; -ENOMEM. */
int cache_get(struct cache *c, uint64_t offset, struct wait *w, struct slice **ret_s);
/* Start reading the slice at `offset`, if it is not cached, and the following ones up to `end`. For
 * walks through a whole table. */
void cache_ahead(struct cache *c, uint64_t offset, uint64_t end);
/* Returns the slice if it is cached; else NULL. */
struct slice *cache_peek(struct cache *c, uint64_t offset);
/* Returns a zeroed slice without a read; NULL if out of memory. */
struct slice *cache_new_slice(struct cache *c, uint64_t offset);
/* Drop cached slices in [offset, offset + len), because the clusters get another use. */
void cache_drop(struct cache *c, uint64_t offset, uint64_t len);
void slice_set_dirty(struct slice *s);
void slice_set_clean(struct slice *s);
static inline void slice_pin(struct slice *s)
{
	s->pins++;
}
void slice_unpin(struct slice *s);

/* ---- l2_run_cache.c: evicted L2 slices in short form ---- */

/* Every function accepts NULL for t. l2_runs_keep() stores an evicted slice; slice_set_dirty() and
 * cache_drop() forget it, so the runs always equal the slice in the file. l2_runs_new() returns NULL
 * for extended L2 entries, for a small bytes_max, or if out of memory. */
struct l2_runs *l2_runs_new(struct qcow2 *q, size_t bytes_max);
void l2_runs_free(struct l2_runs *t);
void l2_runs_keep(struct l2_runs *t, const struct slice *s);
void l2_runs_drop(struct l2_runs *t, uint64_t offset);
/* Look up entry i of the slice at `offset`.
 * ret_n: number of entries from i on, including i, that name adjacent clusters, or that all equal
 * entry i and name none.
 * Returns false if the slice is not kept. */
bool l2_runs_find(const struct l2_runs *t, uint64_t offset, uint32_t i, uint64_t *ret_entry,
	uint32_t *ret_n);

/* ---- meta.c: which clusters hold metadata ---- */

enum meta_kind {
	META_NONE = 0,
	META_HEADER,
	META_L1,
	META_L2,
	META_REFTABLE,
	META_REFBLOCK,
	META_SNAPSHOTS,
	META_INACTIVE_L1,
	META_INACTIVE_L2,
	META_BITMAP, /* persistent bitmaps: their directory, tables and bits */
	META_CONFLICT, /* two kinds claim the cluster: any write there fails */
};
/* A hash set: cluster number → kind. */
struct meta_set {
	uint64_t *keys; /* cluster + 1; 0: empty slot */
	uint8_t *kinds;
	size_t cap, used; /* cap is a power of two */
	/* One bit per group of adjacent clusters, with the group's number modulo QCOW2_META_GROUPS.
	 * 0: none of the group's clusters was ever in the set. */
	uint64_t *groups;
	struct budget *budget; /* NULL: the set may grow without limit, because each new mark stands for a cluster that
				* the engine has allocated in the file */
};
#define QCOW2_META_GROUPS 65536u
/* Returns 0; -ENOMEM; -EDQUOT: the budget does not allow it. */
int meta_add(struct meta_set *m, uint64_t cluster, enum meta_kind k);
void meta_remove(struct meta_set *m, uint64_t cluster);
/* Returns the most memory that the set takes while n clusters are added. */
uint64_t meta_bytes_after(const struct meta_set *m, uint64_t n);
enum meta_kind meta_find(const struct meta_set *m, uint64_t cluster);
/* Returns the first cluster of [cluster, end) in the set; `end` if there is none. */
uint64_t meta_next(const struct meta_set *m, uint64_t cluster, uint64_t end);
void meta_done(struct meta_set *m);
/* Fill the set with the image's metadata clusters. It lacks bitmaps, which bitmaps_load() adds, and the L2 tables of
 * snapshots whose L1 tables are damaged or too large to read at open. Returns 0 or -errno with a sentence. */
int qcow2_meta_load(struct qcow2 *q, struct err *e);

/* ---- tables that are in memory as a whole: L1 and refcount table ---- */
struct table {
	uint64_t *entries; /* in host byte order; undefined from entry n on */
	uint32_t n;	   /* number of entries in use */
	uint32_t cap;	   /* number of entries that fit into the table's clusters */
	uint64_t offset;
	struct bitmap dirty; /* a bit per piece of slice_bytes */
	bool any_dirty;
	bool moved; /* refcount table: write it whole, then name it in the header */
};
void table_set(struct qcow2 *q, struct table *t, uint32_t i, uint64_t v);

/* A run of clusters whose refcounts are to be decremented. */
struct free_run {
	uint64_t cluster;
	uint32_t n;
};
struct free_list {
	struct free_run *runs;
	size_t n, cap;
};

/* One allocating write, or one punch or zeroing of a data file, in flight. No other request may change the map entries
 * of its guest clusters meanwhile. */
struct l2meta {
	struct l2meta *next, **prev;
	uint64_t first, last; /* numbers of the first and last guest cluster */
	struct wait_list waiters;
};

/* The map of one address space: the disk's, or a snapshot's VM state. */
struct map {
	struct table l1; /* a VM state's entries, which lie behind the disk's in its snapshot's L1 */
	struct l2meta *l2metas;
	struct l2_make *l2_makes;
	bool vm; /* a VM state: it has no backing, and its L1 is not the active one */
};

enum commit_step {
	COMMIT_IDLE,
	COMMIT_REFCOUNTS,
	COMMIT_SYNC_REFCOUNTS,
	COMMIT_REFTABLE,
	COMMIT_SYNC_REFTABLE,
	COMMIT_HEADER,
	COMMIT_SYNC_TABLES,
	COMMIT_MAPS,
	COMMIT_SYNC_MAPS,
};

struct commit_write {
	struct io io;
	struct qcow2 *q;
	struct iovec iov;
	uint64_t offset;
	size_t len;
};

/* The tables that one commit writes; see commit.c. */
struct commit {
	enum commit_step step;
	bool scheduled; /* begins in the loop's next round */
	bool held;	/* header_hold(): a task writes the header, so no commit begins */
	bool barrier;	/* a map entry depends on data or refcounts: sync before the maps */
	bool moved;	/* the refcount table moved */
	uint32_t moved_clusters;
	int res; /* the last commit's result; reset to 0 when the next one begins */
	bool failing; /* the last commit failed */
	unsigned pending;
	struct loop_op op, data_op, start_op;
	bool data_synced; /* the data file was synced during this commit */
	struct io header_io;
	struct iovec header_iov;
	struct slice **slices; /* pinned */
	size_t nslices;
	uint8_t *buf; /* copies of the slices and tables, in the order of writes */
	struct commit_write *writes; /* refcounts, refcount table, then maps */
	size_t nwrites, end_refcounts, end_reftable;
	struct free_list frees;
	struct wait_list flushes;      /* completed by the running commit */
	struct wait_list next_flushes; /* completed by the next commit */
	/* The commit that completes this flush calls written() once, when only its sync is left. NULL: nobody waits for
	 * that. */
	struct wait *watched;
	void (*written)(struct wait *w);
	struct wait_list throttled;    /* allocations and writers of the header that wait for the commit's end */
};

/* Frees clusters that no durable entry names any more (refcount.c). */
struct deferred_free {
	struct free_list list, next; /* the runs of this round, and those of the next round */
	size_t pos;
	bool running;
	bool draining;	/* waits for the I/O that began in `epoch` */
	unsigned epoch; /* lowest bit of that epoch */
	struct wait wait;
	struct loop_op op;
	uint32_t punching; /* number of clusters whose punch is in flight */
	uint32_t punched;  /* clusters at the start of the run that are holes already */
	uint64_t rounds;   /* number of finished lists */
	struct wait_list idle; /* woken after each list */
};

/* The end of the file (tail.c). */
struct tail {
	uint64_t file_bytes; /* the file's length as last known */
	uint64_t growing_to;
	bool growing, refused;
	bool grown; /* the file must be cut at close */
	uint64_t taken; /* number of allocations */
	struct loop_op op;
};

/* The place of guest data: the external data file, if there is one (data.c). */
struct data_file {
	bool raw;	     /* data_file_raw: the data file alone has the content of the disk */
	bool is_device;
	bool can_punch, can_zero, can_seek; /* permanently false once the host reports the operation as unsupported */
	uint64_t fresh_from; /* from this cluster on, the file reads as zeros */
};

/* The persistent bitmaps (bitmap_impl.h); none if the image is open for reading. */
struct qcow2_bitmaps {
	struct dirty_bitmap *list;
	size_t n;
	bool changed; /* the directory in the file is older than this list */
	bool lazy; /* bits are loaded when they are needed */
	bool abandoned; /* a store by qcow2_bitmaps_commit() has failed: do not try again */
	struct bitmap_place *removed; /* places to free when the directory is stored */
	size_t nremoved;
};

#define QCOW2_REQ_POOL_MAX 256

struct qcow2 {
	struct block base;
	struct qcow2_header h;
	uint32_t cluster_bits, cluster_bytes;
	uint32_t slice_bytes;
	uint32_t l2_entry_bytes;   /* 8 or 16 */
	uint32_t l2_bits;	   /* log2 of the entries per table */
	uint32_t slice_entries;	   /* L2 entries per slice */
	uint32_t grain_bytes;	   /* a cluster, or a subcluster */
	uint32_t refblock_bits;	   /* log2 of the refcounts per block */
	uint32_t slice_refs_bits;  /* log2 of the refcounts per slice */
	bool ext, can_punch, corrupt, is_device;
	uint8_t *header_piece; /* the first slice_bytes (at least 512) bytes of the file */
	uint32_t header_piece_bytes;

	struct map disk;
	struct table reftable;
	struct cache l2, refs;
	struct meta_set meta;
	struct budget memory; /* charged while the image is opened; see qcow2_memory_max() */

	uint64_t free_from; /* there is no free cluster below, except in `reserved` */
	struct {
		uint64_t first, end;
	} reserved; /* clusters for a run of adjacent ones; cluster_alloc() takes none of them */
	uint64_t fresh_from; /* from this cluster on, the file reads as zeros */

	struct tail tail;
	struct qcow2_bitmaps bitmaps;

	int data_fd;   /* the fd for guest data: base.fd, or the external data file's */
	/* an external data file: each data cluster lies at its guest offset and has no refcount */
	bool external;
	struct data_file data;
	struct { /* see extent_is_hole() */
		bool known, preallocated;
		struct io_holes found;
	} holes;

	struct free_list pending_free; /* freed since the last commit began */
	struct commit commit;
	struct deferred_free deferred_free;
	bool need_barrier;
	struct loop_timer *timer;
	bool timer_armed;
	unsigned dirty_max; /* number of dirty slices that starts a commit */

	/* The current epoch, and the number of I/Os in flight on data clusters, by the lowest bit of the epoch in which
	 * they began. */
	unsigned epoch, epoch_io[2];

	/* The first change must wait until the autoclear bits of unknown features are cleared, and the bitmaps that
	 * record are marked as in use. */
	bool gate_shut, gate_running;
	struct wait_list gate; /* changes that wait for that */
	struct io gate_io;
	struct loop_op gate_op;
	struct iovec gate_iov;

	struct io corrupt_io;
	struct iovec corrupt_iov;
	unsigned internal; /* the engine's own requests and operations in flight */

	struct qcow2_req *pool;
	unsigned npool;

	/* Limits on the parts of requests, and the requests that wait without a part in flight (io.c). */
	unsigned parts_max;
	uint64_t parts_bytes, parts_bytes_max;
	struct wait_list parts_waiters;

	/* The state of snapshot_impl.h: */
	struct block_snapshot *creating; /* the snapshot that is being created */
	/* Count table `index` for that snapshot, before table_own() copies the table. Returns 0: the table may be
	 * copied; -EINPROGRESS: w runs later. NULL: no snapshot is being created. */
	int (*before_own)(struct qcow2 *q, uint32_t index, struct wait *w);
	bool snapshot_busy;		     /* an operation that changes the snapshot table runs, or block_pull_finish() */
	bool snapshot_held;		     /* that operation waits for its caller, so it may never end */
	struct block_snapshot_wait *snapshot_waiters; /* of block_snapshot_wait(), in their order */
	unsigned snapshot_changes;	     /* number of snapshot operations so far that change refcounts */
	uint64_t l1_changes;		     /* number of changes of the active L1 so far, in memory */
	struct { /* the last pin that was made of the disk; see qcow2_pin_is_current() */
		bool known;
		struct qcow2_pin pin;
		uint64_t l1_changes; /* at its freeze */
	} last_pin;
	struct qcow2_snapshot_info *snapshots; /* NULL: not read yet */
	size_t nsnapshots;
	struct snapshot_vmstate *snapshot_vmstates;

	/* The content of the last decompressed cluster: guests often read a cluster in several pieces. */
	uint8_t *unpacked;
	uint64_t unpacked_host; /* offset in the file of that compressed cluster; 0: none is cached */
};

static inline struct qcow2 *qcow2_of(struct block *b)
{
	return (struct qcow2 *)b;
}

/* The autoclear bits that an image may keep when it changes; bitmaps: whether it has valid ones. */
static inline uint64_t autoclear_known(const struct qcow2 *q, bool bitmaps)
{
	return (q->data.raw ? QCOW2_AUTOCLEAR_RAW_DATA : 0) | (bitmaps ? QCOW2_AUTOCLEAR_BITMAPS : 0);
}

/* ---- header.c ---- */

/* Put a header extension. type: QCOW2_EXT_*. */
void qcow2_put_extension(struct cursor *cur, uint32_t type, const void *data, uint32_t len);

/* ---- image.c ---- */

/* Read len bytes synchronously, without the loop. Bytes past the end of the file read as
 * zeros. buf and len suit O_DIRECT (4 KiB). Returns 0 or -errno. */
int qcow2_pread(int fd, void *buf, size_t len, uint64_t off);

/* Handle an inconsistency of the image, or of its tables in memory: log it, report it to the listener, stop all
 * writes, and set the corrupt bit in the file (version 3, open for writing).
 * Returns -EIO. */
int qcow2_corrupt(struct qcow2 *q, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Set or clear the dirty bit in the header in memory. The next write of the header stores it. */
void qcow2_mark_dirty(struct qcow2 *q, bool dirty);

/* Returns the space that the file takes; of a device, its size. */
uint64_t qcow2_allocated_bytes(int fd);
/* Returns the limit on the memory for tables of the image fd with the header h. */
uint64_t qcow2_memory_max(int fd, const struct qcow2_header *h);
/* Report that the tables of q need more memory than q->memory allows. Returns -EDQUOT. */
int qcow2_memory_exceeded(const struct qcow2 *q, struct err *e);

/* ---- snapshot_mark.c: repair of a marked image at open ---- */

/* Repair an image with the dirty bit before it is opened for writing, if it only has leaks; h is updated. An image
 * with other errors, or with too many clusters for the memory that its data justifies, keeps the bit. Synchronous.
 * Returns 0 or -errno with a sentence. */
int qcow2_repair_leaks(const struct block_format_open *o, struct qcow2_header *h, struct err *e);

/* ---- pin.c ---- */

/* Describe the pin of an entry of the snapshot table. l1: the pin's, big-endian, as in the file. Returns false if the
 * entry has no mark of a pin. */
bool qcow2_pin_describe(const struct qcow2_snapshot_info *s, uint32_t cluster_bits, const uint8_t *l1,
	struct qcow2_pin *ret);
/* Note that the image has the pin, on stable storage. l1_changes: those of q at the freeze of the pin. */
void qcow2_pin_note(struct qcow2 *q, const struct qcow2_pin *pin, uint64_t l1_changes);
/* Call before an entry is deleted: forget the recorded pin if it is this entry's. */
void qcow2_pin_invalidate(struct qcow2 *q, const struct qcow2_snapshot_info *s);
/* Print the name of an overlay's backing file. Returns 0; -EINVAL if the path is too long. */
int qcow2_pin_name_print(const struct qcow2_pin *pin, const char *source, char ret[QCOW2_BACKING_NAME_MAX + 1],
	struct err *e);
/* Serialize the header extension. */
void qcow2_pin_ext_put(uint8_t p[QCOW2_PIN_EXT_BYTES], const struct qcow2_pin *pin);
/* Parse the header extension. Returns false if it is damaged or of another version. */
bool qcow2_pin_ext_get(const uint8_t *p, uint32_t len, struct qcow2_pin *ret);
/* Read the header of q's file at the pin that the overlay describes. wait: for a pin that is about to be made; NULL:
 * the file has the pin, whether its header names it or not. Returns as qcow2_pin_read(); -ECANCELED: the peer that the
 * wait depends on has gone, and the pin is not there; -EINVAL if the file has another pin of that id. */
int qcow2_pin_open(struct qcow2 *q, const struct qcow2_pin *pin, const struct block_pin_wait *wait, struct err *e);
/* Check the loaded L1 against the overlay's checksum. Returns 0 or -EINVAL. */
int qcow2_pin_check_l1(const struct qcow2 *q, const struct qcow2_pin *pin, struct err *e);

/* ---- refcount.c ---- */

/* Get the refcount of a cluster. Returns 0; -EINPROGRESS; -errno. */
int refcount_get(struct qcow2 *q, uint64_t cluster, struct wait *w, uint64_t *ret);
struct cluster_run {
	uint64_t first;
	uint32_t n;
	bool fresh; /* the file reads as zeros there */
};
/* Allocate 1 to `want` adjacent free clusters, each with refcount 1. Returns 0; -EINPROGRESS;
 * -EFBIG: the format has no further offsets; -EIO: the image is corrupt; -errno. */
int cluster_alloc(struct qcow2 *q, uint32_t want, struct wait *w, struct cluster_run *ret);
/* Allocate 1 to `want` adjacent clusters from `cluster` on, whose refcount block exists. Returns 0; -EEXIST: `cluster`
 * is in use; -EINPROGRESS; -errno. */
int clusters_take(struct qcow2 *q, uint64_t cluster, uint32_t want, struct wait *w, uint32_t *ret_n);
/* Reserve [first, end) in place of the range that was reserved before. 0, 0: reserve nothing. */
void clusters_reserve(struct qcow2 *q, uint64_t first, uint64_t end);
/* Grow the refcount table if it cannot describe all clusters below `end`. The table's new place lies behind `end`.
 * Returns 0; -EFBIG; -errno. */
int reftable_reach(struct qcow2 *q, uint64_t end);
/* Returns the number of refcount blocks that [first, first + n) lacks. */
uint64_t refblocks_missing(const struct qcow2 *q, uint64_t first, uint64_t n);
/* Make cluster `first` the first refcount block that [first, first + n) lacks; the refcount table reaches its end.
 * Returns 1; 0: no block is missing; -EEXIST: the cluster is in use; -EINPROGRESS; -errno. */
int refblock_take(struct qcow2 *q, uint64_t first, uint64_t n, struct wait *w);
/* Decrement the refcounts of n clusters after the next commit is durable. */
void cluster_free_later(struct qcow2 *q, uint64_t cluster, uint32_t n);
void deferred_free_start(struct qcow2 *q, struct free_list *l);
/* Returns the value of `rounds` from which on everything that is now queued here is free. */
static inline uint64_t deferred_free_target(const struct qcow2 *q)
{
	return q->deferred_free.rounds + (q->deferred_free.running ? q->deferred_free.next.n ? 2 : 1 : 0);
}
/* Continue freeing if all I/O of the awaited epoch has ended. */
void deferred_free_resume(struct qcow2 *q);

static inline unsigned epoch_enter(struct qcow2 *q)
{
	q->epoch_io[q->epoch & 1]++;
	return q->epoch & 1;
}

static inline void epoch_leave(struct qcow2 *q, unsigned parity)
{
	if (!--q->epoch_io[parity] && q->deferred_free.running)
		deferred_free_resume(q);
}

/* ---- tail.c ---- */

/* Mark the image corrupt if another program truncated the file: the missing part may hold data, or
 * tables in use. */
void tail_check(struct qcow2 *q);
/* Extend the file to the end of cluster `end` - 1, unless it is as long. Synchronous. Returns 0; -EIO: the image is
 * corrupt; -errno. */
int tail_extend(struct qcow2 *q, uint64_t end);
/* Extend the file beyond fresh_from, if little of the file is left there. Call it after fresh_from has grown. */
void tail_grow(struct qcow2 *q);
/* Cuts free clusters off the end of the file while requests continue. */
struct tail_trim {
	bool begun;
	uint64_t end, taken;
};
/* Returns 0 at the end; -EAGAIN; -EINPROGRESS; -errno. */
int tail_trim_step(struct qcow2 *q, struct tail_trim *t, struct wait *w);
/* Cut the unused end of the file. No request is in flight. */
void tail_cut(struct qcow2 *q);

/* ---- map.c, holes.c ---- */

enum extent_kind { EXTENT_UNALLOCATED, EXTENT_ZERO, EXTENT_DATA, EXTENT_COMPRESSED };
struct extent {
	enum extent_kind kind;
	bool in_place;	 /* DATA: a write may go in place */
	bool has_host;
	/* DATA: file offset of the first byte. COMPRESSED: offset of the stream. Else, if has_host:
	 * the cluster that the entry keeps */
	uint64_t host;
	uint64_t len;	 /* in bytes, from the requested offset on */
	uint64_t packed; /* COMPRESSED: largest length of the stream in bytes */
};
/* Look up the extent at guest offset off, of at most len bytes. Returns 0; -EINPROGRESS; -EIO for
 * an invalid entry. */
int map_lookup(struct qcow2 *q, const struct map *m, uint64_t off, uint64_t len, struct wait *w,
	struct extent *ret);

/* Look up the data at `host` in the file of an image that is open for reading.
 * *len: its most bytes; set to those that are all hole or all data.
 * Returns true for a hole of an image with preallocated clusters. Other images' holes are not looked up, because that
 * takes time and finds no more than parts of clusters. */
bool extent_is_hole(struct qcow2 *q, uint64_t host, uint64_t *len);

/* Get the slice with off's entry from a table that may be changed; the table is copied if it is
 * shared. The slice is pinned. Returns 0; -EINPROGRESS; -errno. */
int map_get_writable(struct qcow2 *q, struct map *m, uint64_t off, struct wait *w,
	struct slice **ret_s);
/* Returns true if the table is being created or copied; w then runs afterwards. */
bool table_made(struct map *m, uint32_t index, struct wait *w);
/* Returns the file offset of the slice with off's entry, in the L2 table at `table`. */
uint64_t slice_offset(const struct qcow2 *q, uint64_t table, uint64_t off);
/* The entry of a guest offset. */
struct l2_entry {
	uint64_t e;
	uint64_t bitmap; /* bitmap of the entry; only with extended L2 */
};
/* Returns where the entry of off is in its slice. */
static inline uint32_t l2_at(const struct qcow2 *q, uint64_t off)
{
	uint64_t i = (off >> q->cluster_bits) & ((1ULL << q->l2_bits) - 1);

	return (uint32_t)(i & (q->slice_entries - 1)) * q->l2_entry_bytes;
}
static inline struct l2_entry l2_get(const struct qcow2 *q, const struct slice *s, uint64_t off)
{
	const uint8_t *p = s->data + l2_at(q, off);

	return (struct l2_entry){ load_be64(p), q->ext ? load_be64(p + 8) : 0 };
}
void l2_put(struct qcow2 *q, struct slice *s, uint64_t off, struct l2_entry v);
/* Check an entry against the format. Returns 0 or -EIO. */
int l2_check(const struct qcow2 *q, struct l2_entry v);
/* Check the entry of guest offset off. In a data file, the cluster must lie at its guest offset. */
int l2_check_at(const struct qcow2 *q, struct l2_entry v, uint64_t off);
/* Returns true for a plain entry that names a cluster. Only a data file has a cluster at 0. */
static inline bool l2_has_host(const struct qcow2 *q, struct l2_entry v)
{
	return !(v.e & QCOW2_COMPRESSED) &&
	       ((v.e & QCOW2_OFFSET_MASK) || (q->external && (v.e & QCOW2_COPIED)));
}
/* Release the entry's clusters. */
void l2_release(struct qcow2 *q, struct l2_entry v);
/* Get the offset and length of a compressed cluster. */
void l2_compressed(const struct qcow2 *q, uint64_t e, uint64_t *ret_off, uint64_t *ret_len);
/* Returns the number of guest bytes that one L2 table covers. */
static inline uint64_t map_table_reach(const struct qcow2 *q)
{
	return 1ULL << (q->cluster_bits + q->l2_bits);
}
static inline uint32_t l1_index(const struct qcow2 *q, uint64_t off)
{
	return (uint32_t)(off >> (q->cluster_bits + q->l2_bits));
}

/* ---- commit.c ---- */

int commit_init(struct qcow2 *q);
void commit_done(struct qcow2 *q);
/* Let w run when all changes until now are durable. */
void commit_flush(struct qcow2 *q, struct wait *w);
/* Does a task wait here, and not a request? (task.c) */
bool task_owns(const struct wait *w);
/* Note a change of a table: start a commit if too many changes wait, else arm the timer for one. */
void commit_note_dirty(struct qcow2 *q);
/* Returns true if too many slices are dirty or too many frees are queued; w then runs at the end of the commit, or of
 * the round of frees that runs. */
bool commit_throttle(struct qcow2 *q, struct wait *w);
bool commit_idle(const struct qcow2 *q);
void commit_start(struct qcow2 *q);

/* ---- io.c, write.c, zero.c ---- */

/* Let a changing request wait until the header allows changes. Returns true if w was queued. */
bool gate_wait(struct qcow2 *q, struct wait *w);
/* A request in progress, handled extent by extent. */
struct qcow2_req {
	struct qcow2 *q;
	struct map *map;
	struct block_req *block_req;
	struct qcow2_req *pool_next;
	struct wait wait;
	uint64_t pos;	  /* bytes of the request that are handled */
	unsigned pending; /* number of parts in flight, plus 1 while parts remain */
	bool internal;	  /* issued by the engine itself, so block.c does not count the request */
	bool full;	  /* has as many parts in flight as it may have; the next ones start when some have ended */
	int res;
	unsigned epoch; /* lowest bit of the epoch in which `io` began */
	struct io io;	/* I/O of a request with a single extent */
};
void qcow2_submit(struct block *b, struct block_req *r);
/* Start a request of the engine itself. done() runs later, as for a guest's request. Returns 0 or -ENOMEM. */
int qcow2_req_start(struct qcow2 *q, struct map *m, struct block_req *r);
/* Count memory of a part in flight. */
static inline void parts_take(struct qcow2 *q, uint64_t bytes)
{
	q->parts_bytes += bytes;
}
/* Return the memory of a part that has ended, and wake the requests that wait for it. */
void parts_give(struct qcow2 *q, uint64_t bytes);
/* Complete one part of req. */
void qcow2_req_part_done(struct qcow2_req *req, int res);
/* Transfer [req->pos, +len) of the request's memory from or to file offset `host`. */
int qcow2_req_transfer(struct qcow2_req *req, uint64_t host, uint64_t len, bool write);
/* Handle the next part of a write, discard or write-zeroes. Returns 0: continue; -EINPROGRESS:
 * req->wait runs later; any other error fails the request. */
int qcow2_req_step_write(struct qcow2_req *req);
int qcow2_req_step_zero(struct qcow2_req *req);
/* Returns true if an allocating write in flight uses one of these guest clusters; w then runs
 * afterwards. */
bool l2meta_wait(struct map *m, uint64_t first, uint64_t last, struct wait *w);
void l2meta_link(struct map *m, struct l2meta *a);
void l2meta_unlink(struct l2meta *a);
/* Returns true if off's unallocated range reads as zeros. */
bool backing_is_zero(const struct qcow2 *q, const struct map *m, uint64_t off);

/* ---- data.c: the external data file; without one, the image's own clusters ---- */

int qcow2_data_open(struct qcow2 *q, const struct block_format_open *o, struct err *e);
/* Allocate clusters for the guest clusters from `guest` on; like cluster_alloc(). */
int data_alloc(struct qcow2 *q, uint64_t guest, uint32_t want, struct wait *w,
	struct cluster_run *ret);
/* Release allocated clusters that were not used. */
void data_release(struct qcow2 *q, uint64_t cluster, uint32_t n);
/* Handle a part of req: punch whole clusters that the map no longer names. */
int data_punch(struct qcow2_req *req, uint64_t off, uint64_t len);
/* Raw data file: handle the rest of a discard or write-zeroes.
 * Returns 0 when done; -EINPROGRESS: call again when req->wait runs; -EOPNOTSUPP: the host cannot. */
int data_zero_step(struct qcow2_req *req);
/* Set the data file's length to the disk's, durably. Without a data file, and for a device, do
 * nothing.
 * Returns 0 or -errno. */
int data_truncate(struct qcow2 *q, uint64_t size);
/* Like data_truncate(), but keep a data file that is longer. */
int data_extend(struct qcow2 *q, uint64_t size);
/* Punch the whole data file. The durable map must not name any of it. */
void data_empty(struct qcow2 *q);

/* ---- compress.c ---- */

/* Decompress a stream of at most packed_len bytes into a cluster. Returns 0; -EINVAL: the stream is
 * damaged; -ENOMEM. */
int qcow2_decompress(uint8_t compression, const void *packed, size_t packed_len, void *out,
	size_t out_len);

#endif
