/* qcow2_impl: the engine's insides.
 *
 * How it works: a metadata transaction (look up, allocate, publish) runs on the loop's
 * thread from beginning to end without I/O, on tables in memory. When a slice of a table
 * is not there, the transaction has changed nothing yet: it waits for the slice and is
 * begun again from the top. So there are no locks and no half-made changes.
 *
 * Changed slices stay in memory; a commit (commit.c) writes them in ordered
 * groups. docs/qcow2.md has the order and why it is safe. */
#ifndef CAIRN_BLOCK_QCOW2_IMPL_H
#define CAIRN_BLOCK_QCOW2_IMPL_H

#include "base/bitmap.h"
#include "block/block_impl.h"
#include "block/io.h"
#include "block/qcow2/qcow2.h"

struct qcow2;

/* Somebody who goes on later: after a slice was read, an allocation published, … */
struct wait {
	struct wait *next;
	void (*run)(struct wait *w, int res); /* res < 0: what was waited for failed */
};
struct wait_list {
	struct wait *head, **tail;
};
void wait_list_init(struct wait_list *l);
void wait_list_add(struct wait_list *l, struct wait *w);
/* Empty from, behind what to has. */
void wait_list_move(struct wait_list *to, struct wait_list *from);
/* Runs each once; those that queue again go to the emptied list. */
void wait_list_wake(struct wait_list *l, int res);

/* ---- cache.c: tables in slices ---- */

#define QCOW2_SLICE_BYTES_MAX 4096u

struct slice {
	struct cache *cache;
	uint64_t offset;		 /* in the file */
	struct slice *hash_next;
	struct slice *lru_prev, *lru_next; /* most recently used first */
	struct slice *dirty_prev, *dirty_next;
	uint8_t *data;
	unsigned pins; /* not evicted while > 0 */
	bool loading, dirty, dropped;
	struct wait_list waiters;
	struct io io;
	struct iovec iov;
};

struct cache {
	struct qcow2 *q;
	uint32_t slice_bytes;
	unsigned max, count, ndirty;
	unsigned hash_bits;
	struct slice **hash;
	struct slice *lru_head, *lru_tail;
	struct slice *dirty_head;
	struct slice *spare;	   /* freed ones, by hash_next */
	struct cache_slab *slabs;  /* memory of all; the first has slab_left unused */
	unsigned slab_left;
	uint64_t hits, misses;
	struct l2_runs *runs; /* of L2 slices that were evicted; NULL: none are kept */
};

int cache_init(struct cache *c, struct qcow2 *q, uint32_t slice_bytes, uint64_t bytes_max);
void cache_done(struct cache *c);
/* Returns 0 with the slice (valid until the next call that may evict: pin it to keep
 * it); -EINPROGRESS: w runs when it was read; -ENOMEM. */
int cache_get(struct cache *c, uint64_t offset, struct wait *w, struct slice **ret_s);
/* For who goes through a table from offset to end: when that slice is not there, begin to read it
 * and those behind it. */
void cache_ahead(struct cache *c, uint64_t offset, uint64_t end);
/* The slice when it is there, else NULL. */
struct slice *cache_peek(struct cache *c, uint64_t offset);
/* A slice of zeros that need not be read; NULL: out of memory. */
struct slice *cache_new_slice(struct cache *c, uint64_t offset);
/* Forget what is cached of [offset, offset + len): the clusters get another use. */
void cache_drop(struct cache *c, uint64_t offset, uint64_t len);
void slice_set_dirty(struct slice *s);
void slice_set_clean(struct slice *s);
static inline void slice_pin(struct slice *s)
{
	s->pins++;
}
void slice_unpin(struct slice *s);

/* ---- l2_run_cache.c: evicted L2 slices, briefly ---- */

/* NULL allowed everywhere. What is kept of a slice is as good as the slice, until it changes. */
struct l2_runs *l2_runs_new(struct qcow2 *q, size_t bytes_max);
void l2_runs_free(struct l2_runs *t);
void l2_runs_keep(struct l2_runs *t, const struct slice *s);
void l2_runs_forget(struct l2_runs *t, uint64_t offset);
/* Entry i of the slice at offset, and how many follow each other from it on in the slice, itself
 * included. False: not known. */
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
	META_CONFLICT, /* two of them claim it: any write there is refused */
};
/* A hash set, cluster number → kind. */
struct meta_set {
	uint64_t *keys; /* cluster + 1; 0 empty */
	uint8_t *kinds;
	size_t cap, used; /* cap: power of two */
	/* A bit for each group of adjoining clusters, by number modulo QCOW2_META_GROUPS: 0, none of
	 * them was ever in the set. */
	uint64_t *groups;
};
#define QCOW2_META_GROUPS 65536u
int meta_add(struct meta_set *m, uint64_t cluster, enum meta_kind k);
void meta_remove(struct meta_set *m, uint64_t cluster);
enum meta_kind meta_find(const struct meta_set *m, uint64_t cluster);
/* The first of [cluster, end) that is in the set; end: none is. */
uint64_t meta_next(const struct meta_set *m, uint64_t cluster, uint64_t end);
void meta_done(struct meta_set *m);
/* Everything known at open. Returns 0 or -errno. */
int qcow2_meta_load(struct qcow2 *q, struct err *e);

/* ---- tables held whole: L1 and refcount table ---- */
struct table {
	uint64_t *entries; /* host order */
	uint32_t n;	   /* in use */
	uint32_t cap;	   /* room in the file's clusters */
	uint64_t offset;
	struct bitmap dirty; /* by piece of slice_bytes */
	bool any_dirty;
	bool moved; /* refcount table: to be written whole, then named in the header */
};
void table_set(struct qcow2 *q, struct table *t, uint32_t i, uint64_t v);

/* A run of clusters whose last use ends once the commit after next is durable. */
struct free_run {
	uint64_t cluster;
	uint32_t n;
};
struct free_list {
	struct free_run *runs;
	size_t n, cap;
};

/* One allocating write in flight: nobody else may touch its guest clusters. */
struct l2meta {
	struct l2meta *next, **prev;
	uint64_t first, last; /* guest clusters */
	struct wait_list waiters;
};

/* Where the bytes of one address space are: the disk's, or a snapshot's VM state. */
struct map {
	struct table l1; /* of the disk: in the file; else in memory only */
	struct l2meta *l2metas;
	struct l2_make *l2_makes;
	bool vm; /* a VM state: nothing lies behind it, its L1 is not the active one */
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

/* What one commit took along; see commit.c. */
struct commit {
	enum commit_step step;
	bool scheduled; /* begins in the loop's next round */
	bool held;	/* none begins: somebody else writes the header */
	bool barrier;	/* some map entry relies on data or refcounts: sync before the maps */
	bool moved;	/* the refcount table */
	uint32_t moved_clusters;
	int res; /* of the last one; 0 again when the next begins */
	bool failing; /* the last one failed */
	unsigned pending;
	struct loop_op op, data_op, start_op;
	bool data_synced; /* the data file, since this one began */
	struct io header_io;
	struct iovec header_iov;
	struct slice **slices; /* pinned */
	size_t nslices;
	uint8_t *buf; /* their content, and the tables', in the order of writes */
	struct commit_write *writes; /* refcounts, refcount table, maps */
	size_t nwrites, end_refcounts, end_reftable;
	struct free_list frees;
	struct wait_list flushes;      /* served by the commit that runs */
	struct wait_list next_flushes; /* by the next one */
	struct wait_list throttled;    /* allocations that wait for it to end */
};

/* Gives clusters back once nothing durable points there (refcount.c). */
struct deferred_free {
	struct free_list list, next; /* next: waits for the present one to be done */
	size_t pos;
	bool running;
	bool draining;	/* waits for the I/O that began in `epoch` */
	unsigned epoch; /* parity */
	struct wait wait;
	struct loop_op op;
	uint32_t punching; /* clusters, in flight */
	uint32_t punched;  /* clusters at the run's beginning that are holes now */
	uint64_t rounds;   /* lists done */
	struct wait_list idle; /* woken after each */
};

/* The end of the file (tail.c). */
struct tail {
	uint64_t file_bytes; /* the file's length as far as we know */
	uint64_t growing_to;
	bool growing, refused;
	bool grown; /* to be cut at close */
	uint64_t taken; /* counts allocations */
	struct loop_op op;
};

/* Where guest data is when it is in a file of its own (data.c). */
struct data_file {
	bool raw;	     /* that file alone reads as the disk does */
	bool is_device;
	bool can_punch, can_zero, can_seek; /* cleared for good when the host says that it cannot */
	uint64_t fresh_from; /* from this cluster on it reads as zeros */
};

#define QCOW2_REQ_POOL_MAX 256

struct qcow2 {
	struct block base;
	struct qcow2_header h;
	uint32_t cluster_bits, cluster_bytes;
	uint32_t slice_bytes;
	uint32_t l2_entry_bytes;   /* 8 or 16 */
	uint32_t l2_bits;	   /* log2 of entries per table */
	uint32_t slice_entries;	   /* L2 entries per slice */
	uint32_t grain_bytes;	   /* cluster, or subcluster */
	uint32_t refblock_bits;	   /* log2 of refcounts per block */
	uint32_t slice_refs_bits;  /* log2 of refcounts per slice */
	bool ext, can_punch, corrupt, is_device;
	uint8_t *header_piece; /* the first slice_bytes (at least 512) of the file */
	uint32_t header_piece_bytes;

	struct map disk;
	struct table reftable;
	struct cache l2, refs;
	struct meta_set meta;

	uint64_t free_from; /* no free cluster below */
	uint64_t fresh_from; /* from this cluster on the file reads as zeros */

	struct tail tail;

	int data_fd;   /* guest data goes here; base.fd unless external */
	bool external; /* each data cluster lies at its guest offset and has no refcount */
	struct data_file data;

	struct free_list pending_free; /* since the last commit began */
	uint64_t pending_free_clusters;
	struct commit commit;
	struct deferred_free deferred_free;
	bool need_barrier;
	struct loop_timer *timer;
	bool timer_armed;
	unsigned dirty_max; /* slices; a commit begins beyond */

	/* I/O in flight on data clusters by parity of the epoch it began in. */
	unsigned epoch, epoch_io[2];

	/* First write: unknown autoclear bits have to go before anything changes. */
	bool gate_shut, gate_running;
	struct wait_list gate; /* requests that wait for it */
	struct io gate_io;
	struct loop_op gate_op;
	struct iovec gate_iov;

	bool corrupt_writing;
	struct io corrupt_io;
	struct iovec corrupt_iov;
	unsigned internal; /* requests and operations of ours in flight */

	struct qcow2_req *pool;
	unsigned npool;

	/* snapshot_impl.h */
	struct block_snapshot *snap; /* being made */
	bool snap_busy;		     /* something changes the table */
	unsigned snap_changes;	     /* counts those that change references as well */
	struct qcow2_snapshot_info *snaps; /* NULL: not read yet */
	size_t nsnaps;
	struct snap_vm *snap_vms;

	/* The compressed cluster read last: reads come in smaller pieces. */
	uint8_t *unpacked;
	uint64_t unpacked_host; /* 0: none */
};

static inline struct qcow2 *qcow2_of(struct block *b)
{
	return (struct qcow2 *)b;
}

/* Whole synchronous reads, for opening and for tools. buf and len suit O_DIRECT (4 KiB);
 * what lies past the end of the file reads as zeros. */
int qcow2_pread(int fd, void *buf, size_t len, uint64_t off);

/* An image's fault that a write has met: mark it, log it, stop writing. Returns -EIO. */
int qcow2_corrupt(struct qcow2 *q, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Requests that change something wait until the header says that somebody does. True: w
 * was queued. */
bool gate_wait(struct qcow2 *q, struct wait *w);
/* In the header as it stands in memory: whoever writes it next takes the mark along. */
void qcow2_mark_dirty(struct qcow2 *q, bool dirty);

/* ---- snapshot_mark.c: at open ---- */

/* Before an image is opened for writing: one that is marked dirty and has leaks only is made good, and h
 * follows; one with other faults keeps its mark. Synchronous. Returns 0 or -errno with a sentence. */
int qcow2_mend(const struct block_format_open *o, struct qcow2_header *h, struct err *e);

/* ---- refcount.c ---- */

/* The refcount of a cluster. 0; -EINPROGRESS; -errno. */
int refcount_get(struct qcow2 *q, uint64_t cluster, struct wait *w, uint64_t *ret);
struct cluster_run {
	uint64_t first;
	uint32_t n;
	bool fresh; /* the file reads as zeros there */
};
/* Take 1 to want adjoining free clusters, each with refcount 1. Returns 0; -EINPROGRESS; -ENOSPC; -errno. */
int cluster_alloc(struct qcow2 *q, uint32_t want, struct wait *w, struct cluster_run *ret);
/* Make the refcount blocks that taking the next n clusters needs, so that none comes to lie among
 * them. 0; -EINPROGRESS; -errno. */
int refblocks_ahead(struct qcow2 *q, uint32_t n, struct wait *w);
/* They lose one reference when the next commit is durable. */
void cluster_free_later(struct qcow2 *q, uint64_t cluster, uint32_t n);
void deferred_free_start(struct qcow2 *q, struct free_list *l);
/* The round after which all that is pending in the freer now is free. */
static inline uint64_t deferred_free_target(const struct qcow2 *q)
{
	return q->deferred_free.rounds + (q->deferred_free.running ? q->deferred_free.next.n ? 2 : 1 : 0);
}
/* An I/O of that epoch is over. */
void deferred_free_poke(struct qcow2 *q);
int free_list_add(struct free_list *l, uint64_t cluster, uint32_t n);

static inline unsigned epoch_enter(struct qcow2 *q)
{
	q->epoch_io[q->epoch & 1]++;
	return q->epoch & 1;
}

static inline void epoch_leave(struct qcow2 *q, unsigned parity)
{
	if (!--q->epoch_io[parity] && q->deferred_free.running)
		deferred_free_poke(q);
}

/* ---- tail.c ---- */

/* When somebody cut the file, the image is corrupt: what is gone may be data, or tables that are
 * counted on. */
void tail_check(struct qcow2 *q);
/* fresh_from has moved: keep the file longer than that. */
void tail_grow(struct qcow2 *q);
/* Cut free clusters off the end of the file, while requests go on. */
struct tail_trim {
	bool begun;
	uint64_t end, taken;
};
/* 0: over; -EAGAIN; -EINPROGRESS; -errno. */
int tail_trim_step(struct qcow2 *q, struct tail_trim *t, struct wait *w);
/* Nothing is in flight: cut what was not needed. */
void tail_cut(struct qcow2 *q);

/* ---- map.c ---- */

enum extent_kind { EXTENT_UNALLOCATED, EXTENT_ZERO, EXTENT_DATA, EXTENT_COMPRESSED };
struct extent {
	enum extent_kind kind;
	bool in_place;	 /* DATA: a write may go straight there */
	bool has_host;
	uint64_t host;	 /* DATA: file offset of the first byte; COMPRESSED: of the stream;
			  * else: of the cluster that is kept for it, if has_host */
	uint64_t len;	 /* bytes from the offset asked for */
	uint64_t packed; /* COMPRESSED: bytes of the stream at most */
};
/* What stands at guest offset off, for at most len bytes. 0; -EINPROGRESS; -EIO for
 * entries that are against the format. */
int map_lookup(struct qcow2 *q, const struct map *m, uint64_t off, uint64_t len, struct wait *w,
	struct extent *ret);

/* The L2 table for off, ours to change; the slice is pinned. 0; -EINPROGRESS; -errno. */
int map_get_writable(struct qcow2 *q, struct map *m, uint64_t off, struct wait *w,
	struct slice **ret_s);
/* Is the table being made or copied? Then w waits for that. */
bool table_made(struct map *m, uint32_t index, struct wait *w);
/* Where in the file the slice with off's entry lies, in the L2 table at `table`. */
uint64_t slice_offset(const struct qcow2 *q, uint64_t table, uint64_t off);
/* Entry of off in its slice. */
struct l2_entry {
	uint64_t e;
	uint64_t bitmap; /* extended only */
};
struct l2_entry l2_get(const struct qcow2 *q, const struct slice *s, uint64_t off);
void l2_put(struct qcow2 *q, struct slice *s, uint64_t off, struct l2_entry v);
/* Is the entry one that the format allows? 0 or -EIO. */
int l2_check(const struct qcow2 *q, struct l2_entry v);
/* The same for guest offset off: in a data file nothing lies elsewhere. */
int l2_check_at(const struct qcow2 *q, struct l2_entry v, uint64_t off);
/* A plain entry that names a cluster; only a data file has one at 0. */
static inline bool l2_has_host(const struct qcow2 *q, struct l2_entry v)
{
	return !(v.e & QCOW2_COMPRESSED) &&
	       ((v.e & QCOW2_OFFSET_MASK) || (q->external && (v.e & QCOW2_COPIED)));
}
/* Give up the entry's clusters. */
void l2_release(struct qcow2 *q, struct l2_entry v);
/* Place and length of a compressed cluster. */
void l2_compressed(const struct qcow2 *q, uint64_t e, uint64_t *ret_off, uint64_t *ret_len);
/* Nothing is mapped in the whole table's reach? */
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
/* w runs when everything changed until now is durable. */
void commit_flush(struct qcow2 *q, struct wait *w);
/* Something became dirty: arm the timer, begin when there is too much. */
void commit_note_dirty(struct qcow2 *q);
/* True: too much waits to be written; w runs when the commit is over. */
bool commit_throttle(struct qcow2 *q, struct wait *w);
bool commit_idle(const struct qcow2 *q);
void commit_start(struct qcow2 *q);

/* ---- io.c, write.c, zero.c ---- */

/* A request on its way, dealt with extent by extent. */
struct qcow2_req {
	struct qcow2 *q;
	struct map *map;
	struct block_req *block_req;
	struct qcow2_req *pool_next;
	struct wait wait;
	uint64_t pos;	  /* bytes of the request dealt with */
	unsigned pending; /* parts in flight, and 1 while there is more to deal with */
	bool internal;	  /* ours: not in the choke point's count */
	int res;
	unsigned epoch; /* parity */
	struct io io;	/* for the one extent that covers all */
};
void qcow2_submit(struct block *b, struct block_req *r);
/* A request of the engine's own; its done() runs later too. 0 or -ENOMEM. */
int qcow2_req_start(struct qcow2 *q, struct map *m, struct block_req *r);
/* A part of req is over. */
void qcow2_req_part_done(struct qcow2_req *req, int res);
/* Move [req->pos, +len) of the request's memory from or to host on. */
int qcow2_req_transfer(struct qcow2_req *req, uint64_t host, uint64_t len, bool write);
/* Deal with the next part of a write, discard or write-zeroes. 0: go on; -EINPROGRESS:
 * req->wait will run; else the request fails. */
int qcow2_req_step_write(struct qcow2_req *req);
int qcow2_req_step_zero(struct qcow2_req *req);
/* Does an allocation in flight touch one of these guest clusters? Then w waits for it. */
bool l2meta_wait(struct map *m, uint64_t first, uint64_t last, struct wait *w);
void l2meta_link(struct map *m, struct l2meta *a);
void l2meta_unlink(struct l2meta *a);
/* The range reads as zeros through an unallocated cluster? */
bool backing_is_zero(const struct qcow2 *q, const struct map *m, uint64_t off);

/* ---- data.c: the external data file; without one, the image's own clusters ---- */

int qcow2_data_open(struct qcow2 *q, const struct block_format_open *o, struct err *e);
/* Clusters for the guest clusters from `guest` on, as cluster_alloc(). */
int data_alloc(struct qcow2 *q, uint64_t guest, uint32_t want, struct wait *w,
	struct cluster_run *ret);
/* They were taken and are not used. */
void data_release(struct qcow2 *q, uint64_t cluster, uint32_t n);
/* Below this cluster the data file may have anything. */
void data_used(struct qcow2 *q, uint64_t end);
/* A part of req: give back the space of whole clusters that the map does not name any more. */
int data_punch(struct qcow2_req *req, uint64_t off, uint64_t len);
/* Raw: the rest of a discard or write-zeroes. 0: dealt with; -EINPROGRESS: req->wait runs, look
 * again; -EOPNOTSUPP: the host cannot. */
int data_zero_step(struct qcow2_req *req);
/* Durably as long as the disk; no data file, or a device: nothing to do. Returns 0 or -errno. */
int data_truncate(struct qcow2 *q, uint64_t size);
/* The map names nothing any more, durably: give the space back. */
void data_empty(struct qcow2 *q);

/* ---- compress.c ---- */

/* Inflate a stream of at most packed_len bytes into a cluster. Returns 0 or -EIO. */
int qcow2_decompress(uint8_t compression, const void *packed, size_t packed_len, void *out,
	size_t out_len);

#endif
