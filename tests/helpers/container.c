/* container: runs a command as in a container: container docker|podman|FILE FOLDER COMMAND...
 *
 * The command sees a read-only root, a /dev/shm of 64 MiB, and FOLDER at /mnt, writable. It belongs to user 65534 and
 * the group of /dev/kvm, without capabilities. libseccomp makes a filter of its system calls from PROFILE, Podman's
 * default profile, which comes from Docker's (moby's profiles/seccomp/default.json). For `docker`, the differences are
 * made up for: the calls of docker_own[], and EPERM for a call that no rule allows. Docker's own profile in Debian 12
 * still allows io_uring. FILE is another profile in JSON, taken as it is (docker_profile.sh). Needs root. */
#include <errno.h>
#include <grp.h>
#include <json-c/json.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define PROFILE "/usr/share/containers/seccomp.json"
#define NOBODY 65534

/* Podman's profile allows these calls without a capability. Docker's refuses them, except the last three with some
 * arguments (docker_rules()). */
static const int docker_own[] = {
	SCMP_SYS(unshare), SCMP_SYS(setns), SCMP_SYS(mount), SCMP_SYS(umount2), SCMP_SYS(pivot_root), SCMP_SYS(move_mount),
	SCMP_SYS(open_tree), SCMP_SYS(fsopen), SCMP_SYS(fsmount), SCMP_SYS(fsconfig), SCMP_SYS(fspick),
	SCMP_SYS(mount_setattr), SCMP_SYS(keyctl), SCMP_SYS(mbind), SCMP_SYS(get_mempolicy), SCMP_SYS(set_mempolicy),
	SCMP_SYS(pidfd_getfd), SCMP_SYS(reboot), SCMP_SYS(syslog), SCMP_SYS(clone), SCMP_SYS(clone3), SCMP_SYS(socket),
};

#define NAMESPACES                                                                                 \
	(CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET)

static _Noreturn void fail(const char *what)
{
	fprintf(stderr, "container: %s: %s\n", what, strerror(errno));
	exit(125);
}

static void check(int r, const char *what)
{
	if (r < 0)
		fail(what);
}

static void mounts_set(const char *folder)
{
	check(unshare(CLONE_NEWNS), "unshare");
	check(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "/");
	check(mount("/", "/mnt", NULL, MS_BIND | MS_REC, NULL), "/mnt");
	check(mount(NULL, "/mnt", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL), "a read-only root");
	check(mount(folder, "/mnt/mnt", NULL, MS_BIND, NULL), folder);
	check(mount("shm", "/mnt/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=64m,mode=1777"), "/dev/shm");
	check(chroot("/mnt"), "chroot");
	check(chdir("/mnt"), "/mnt");
}

/* ---- the profile ---- */

static struct json_object *member(struct json_object *o, const char *key)
{
	return json_object_object_get(o, key);
}

static const char *text(struct json_object *o, const char *key)
{
	const char *t = json_object_get_string(member(o, key));

	return t ? t : "";
}

static bool has(struct json_object *list, const char *word)
{
	for (size_t i = 0; list && i < json_object_array_length(list); i++)
		if (!strcmp(json_object_get_string(json_object_array_get_idx(list, i)), word))
			return true;
	return false;
}

/* Return whether a rule counts on x86-64 for a process without capabilities. */
static bool rule_counts(struct json_object *rule)
{
	struct json_object *in = member(rule, "includes"), *ex = member(rule, "excludes");
	struct json_object *caps = member(in, "caps"), *arches = member(in, "arches");

	if (caps && json_object_array_length(caps))
		return false;
	return (!arches || has(arches, "amd64")) && !has(member(ex, "arches"), "amd64");
}

static enum scmp_compare compare_of(const char *op)
{
	static const struct {
		const char *name;
		enum scmp_compare op;
	} all[] = { { "SCMP_CMP_NE", SCMP_CMP_NE }, { "SCMP_CMP_LT", SCMP_CMP_LT }, { "SCMP_CMP_LE", SCMP_CMP_LE },
		{ "SCMP_CMP_EQ", SCMP_CMP_EQ }, { "SCMP_CMP_GE", SCMP_CMP_GE }, { "SCMP_CMP_GT", SCMP_CMP_GT },
		{ "SCMP_CMP_MASKED_EQ", SCMP_CMP_MASKED_EQ } };

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		if (!strcmp(all[i].name, op))
			return all[i].op;
	errno = EINVAL;
	fail(op);
}

static unsigned args_read(struct json_object *list, struct scmp_arg_cmp *ret)
{
	unsigned n = list ? (unsigned)json_object_array_length(list) : 0;

	for (unsigned i = 0; i < n; i++) {
		struct json_object *o = json_object_array_get_idx(list, i);

		ret[i] = (struct scmp_arg_cmp){ (unsigned)json_object_get_int(member(o, "index")), compare_of(text(o, "op")),
			json_object_get_uint64(member(o, "value")), json_object_get_uint64(member(o, "valueTwo")) };
	}
	return n;
}

/* Of two rules for one call that contradict each other, the first one counts. */
static int rule_add(scmp_filter_ctx ctx, uint32_t action, int call, unsigned n, const struct scmp_arg_cmp *args)
{
	int r = seccomp_rule_add_array(ctx, action, call, n, args);

	return r == -EEXIST ? 0 : r;
}

static bool is_docker_own(int call)
{
	for (size_t i = 0; i < sizeof(docker_own) / sizeof(*docker_own); i++)
		if (docker_own[i] == call)
			return true;
	return false;
}

/* otherwise: the action of calls without a rule, which no rule may have. */
static int rule_read(scmp_filter_ctx ctx, bool docker, uint32_t otherwise, struct json_object *rule)
{
	struct json_object *names = member(rule, "names"), *number = member(rule, "errnoRet");
	uint32_t action = !strcmp(text(rule, "action"), "SCMP_ACT_ALLOW") ? SCMP_ACT_ALLOW :
		SCMP_ACT_ERRNO(number ? (uint32_t)json_object_get_int(number) : EPERM);
	struct scmp_arg_cmp args[6];
	unsigned n = args_read(member(rule, "args"), args);
	int r = 0;

	for (size_t i = 0; i < json_object_array_length(names) && !r && action != otherwise; i++) {
		int call = seccomp_syscall_resolve_name(json_object_get_string(json_object_array_get_idx(names, i)));

		if (call != __NR_SCMP_ERROR && !(docker && is_docker_own(call)))
			r = rule_add(ctx, action, call, n, args);
	}
	return r;
}

static int docker_rules(scmp_filter_ctx ctx)
{
	struct scmp_arg_cmp vsock = SCMP_A0(SCMP_CMP_NE, AF_VSOCK, 0), spaces = SCMP_A0(SCMP_CMP_MASKED_EQ, NAMESPACES, 0);
	int r = rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0, NULL);

	if (!r)
		r = rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1, &spaces);
	return r ? r : rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1, &vsock);
}

/* Without no_new_privs, as Docker does it. docker: make up for the differences of Podman's profile. */
static void calls_filter(const char *path, bool docker)
{
	struct json_object *profile = json_object_from_file(path), *rules = member(profile, "syscalls");
	struct json_object *number = member(profile, "defaultErrnoRet");
	uint32_t otherwise = SCMP_ACT_ERRNO(docker || !number ? EPERM : (uint32_t)json_object_get_int(number));
	scmp_filter_ctx ctx = seccomp_init(otherwise);
	int r = ctx ? seccomp_attr_set(ctx, SCMP_FLTATR_CTL_NNP, 0) : -ENOMEM;

	if (!rules)
		fail(strcmp(path, PROFILE) ? path : PROFILE " (package golang-github-containers-common)");
	if (!r && docker)
		r = docker_rules(ctx);
	for (size_t i = 0; i < json_object_array_length(rules) && !r; i++)
		if (rule_counts(json_object_array_get_idx(rules, i)))
			r = rule_read(ctx, docker, otherwise, json_object_array_get_idx(rules, i));
	if (!r)
		r = seccomp_load(ctx);
	errno = -r;
	check(r, "seccomp");
	seccomp_release(ctx);
	json_object_put(profile);
}

static void user_become(void)
{
	struct stat st;
	gid_t kvm = stat("/dev/kvm", &st) < 0 ? NOBODY : st.st_gid;

	check(setgroups(1, &kvm), "setgroups");
	check(setresgid(NOBODY, NOBODY, NOBODY), "setresgid");
	check(setresuid(NOBODY, NOBODY, NOBODY), "setresuid");
}

int main(int argc, char **argv)
{
	if (argc < 4 || (strcmp(argv[1], "docker") && strcmp(argv[1], "podman") && !strchr(argv[1], '/'))) {
		fputs("usage: container docker|podman|FILE FOLDER COMMAND...\n", stderr);
		return 125;
	}
	mounts_set(argv[2]);
	calls_filter(strchr(argv[1], '/') ? argv[1] : PROFILE, !strcmp(argv[1], "docker"));
	user_become();
	check(prctl(PR_SET_PDEATHSIG, SIGKILL), "prctl"); /* a test that ends takes the command with it */
	execv(argv[3], argv + 3);
	fail(argv[3]);
}
