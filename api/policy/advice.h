/* advice: rules that find waste, shortage and unusual load in a VM's trends and a pool's history, and predict which
 * resources run out (pure).
 *
 * Each piece of advice has the figures that led to it, and the command that solves the problem. A rule that lacks data
 * gives no advice; on request, it says which data it lacks. The limits are in docs/man/cairn.1, at `advise`.
 * Threading: none. */
#ifndef CAIRN_API_POLICY_ADVICE_H
#define CAIRN_API_POLICY_ADVICE_H

#include "api/store/pool_history.h"
#include "api/store/trend_view.h"

/* The rules read so many hours; the last one is the present one, of which only a part is over. */
#define ADVICE_HOURS (35 * 24)
#define ADVICE_STEP_S 3600

enum advice_kind { ADVICE_WASTE, ADVICE_SHORT, ADVICE_UNUSUAL, ADVICE_RUN_OUT, ADVICE_KINDS };
/* Return the kind's word for clients. */
const char *advice_kind_word(enum advice_kind k);

#define ADVICE_FIGURES 6

struct advice {
	enum advice_kind kind;
	const char *rule;
	char *text;	   /* owned: one sentence */
	char *command;	   /* owned: the command that repairs it */
	const char *apply; /* a command of the daemon that repairs it, takes only `vm` and does no harm; NULL: none */
	struct {
		const char *name;
		double value;
	} figures[ADVICE_FIGURES];
	unsigned nfigures;
};

/* A rule that lacks data. */
struct advice_lack {
	const char *rule;
	char *text; /* owned: the data that it lacks */
};

/* Begins as all zeros. */
struct advice_list {
	struct advice *list;
	size_t n;
	bool tell_lacks;
	struct advice_lack *lacks; /* empty without tell_lacks */
	size_t nlacks;
};

void advice_list_done(struct advice_list *l);

/* Facts about a VM, for the rules. */
struct advice_vm {
	const char *name; /* borrowed */
	bool runs;
	bool saved;	   /* it is off, and has a managed save */
	bool kept;	   /* it is off, but somebody wants it: a template, or it starts with the host */
	bool may_reclaim;  /* it has a snapshot, and its process can free memory that the snapshot has */
	uint32_t vcpus;
	uint64_t ram_bytes;
	int64_t now_s, since_s; /* since_s: of the present state; 0: not known. In seconds since 1970 */
	int64_t defined_s;	/* when the definition was written; 0: not known */
	uint64_t made_bytes;	/* images that Cairn made for the VM */
	/* A disk with overlays on images that no other VM uses, and the number of these images; NULL: none. */
	const char *overlay_disk;
	unsigned overlays;
	uint32_t max_vcpus;	/* 0: they neither come nor go */
	uint32_t host_cpus;
	uint32_t cpu_quota; /* in percent of one processor; 0: none */
	/* Percent of the last five minutes in which threads of its process waited for memory; NAN: not known. */
	double pressure;
	/* The time that its vCPUs ran, and waited for a processor, in the last `span_s` seconds.
	 * span_s: 0: not known. */
	struct advice_wait {
		double span_s, ran_s, waited_s;
	} wait;
	const struct trend_view *hours; /* ADVICE_HOURS points of ADVICE_STEP_S; NULL: none */
};

/* Apply all rules about a VM. */
void advice_of_vm(const struct advice_vm *vm, struct advice_list *ret);
/* A snapshot that nobody has marked to be kept, and that is not the current one. */
struct advice_snapshot {
	const char *name, *id; /* borrowed; id: used in the command if the shell would not take the name as a word */
	int64_t time_s;
	uint64_t memory_bytes; /* of its memory, in the image */
};
/* Apply the rules about the snapshots of a VM, in any order. */
void advice_of_snapshots(const char *vm, const struct advice_snapshot *s, size_t n, int64_t now_s, struct advice_list *ret);
/* Apply the rules about the host. pressure: percent of the last five minutes in which threads waited for memory.
 * holder, bytes: the VM whose process holds most memory; NULL: none. */
void advice_of_host(double pressure, const char *holder, double bytes, struct advice_list *ret);
/* Facts for the rules before the start of a VM. Pointers are borrowed. */
struct advice_start {
	const char *name;
	uint64_t ram_bytes, available_bytes; /* available_bytes: of the host; 0: not known */
	const char *holder; /* the running VM whose process holds most memory, and how much; NULL: none */
	uint64_t held_bytes;
	const char *disk; /* a disk whose file system is short of space; NULL: none */
	const char *pool, *folder; /* of this disk: the pool's name; NULL: it is in a folder that is no pool */
	const struct pool_point *space; /* of the file system */
	uint32_t vcpus, host_cpus; /* processors */
	/* Processors that running VMs kept busy in the last minute, and the VM that kept most busy; NULL: none. */
	double busy_cpus;
	const char *busy_name;
	double busy_most;
	/* With disk: the VM with most space in the pool or folder by images that Cairn made, and how much; NULL:
	 * none. */
	const char *disk_holder;
	uint64_t disk_held;
};

/* Add that a start would fail, with the error's sentence. */
void advice_of_refusal(const char *name, const char *sentence, struct advice_list *ret);
/* Add advice about the resources that a start would lack, the most urgent first. */
void advice_of_start(const struct advice_start *s, struct advice_list *ret);
/* Apply the rules about a pool. h: borrowed. low: whether the daemon holds its space for low. */
void advice_of_pool(const char *name, const struct pool_history *h, bool low, struct advice_list *ret);

#endif
