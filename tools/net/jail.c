#include "tools/net/jail.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/lockdown.h"
#include "base/oom.h"
#include "base/util.h"
#include "tools/net/dnsmasq_config.h"
#include "tools/net/forwarding.h"
#include "tools/net/nft.h"
#include "tools/net/privileges.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define START_MS 10000
#define FILES_MAX 1024
#define FILE_MAX_BYTES (128 * MIB) /* of the leases, as leases.c reads them */
#define STDERR_MAX 400

/* ---- in the child ---- */

/* Pipes between this process and its child. */
struct pipes {
	int ready[2]; /* the child writes one byte when it has its namespace; then a struct err, or nothing if it runs dnsmasq */
	int go[2];    /* the parent writes one byte when the veth is there */
	int errors[2]; /* dnsmasq's standard error */
};

static int address_put(struct links *l, int index, const struct subnet *s, const struct address *a, bool forwarded, struct err *e)
{
	int r;

	if (!a->family)
		return 0;
	r = link_add_address(l, index, a, s->prefix, e);
	return r < 0 || !forwarded ? r : link_add_default_route(l, index, &s->address, e);
}

static int namespace_configure(const struct jail *j, struct err *e)
{
	bool forwarded = network_is_forwarded(j->net);
	struct links *l CLEANUP_LINKS = NULL;
	struct link lo, link;
	int r = links_open(&l, e);

	if (!r)
		r = link_find(l, "lo", &lo, e);
	if (!r)
		r = link_set_up(l, lo.index, e);
	if (!r)
		r = link_find(l, SERVICE_LINK, &link, e);
	if (!r && !link.index)
		return err_set(e, -ENODEV, ERR_HOST, "the veth of dnsmasq's namespace is gone");
	/* Its link-local address is usable at once, and its neighbour advertisements say that it is a router: otherwise
	 * the guests would remove it from their list of routers (RFC 4861, section 7.2.5). */
	if (!r && j->service->ipv6.family) {
		r = link_sysctl_write("ipv6", SERVICE_LINK, "accept_dad", 0, e);
		if (!r)
			r = link_sysctl_write("ipv6", SERVICE_LINK, "forwarding", 1, e);
	} else if (!r && link_sysctl_read("ipv6", SERVICE_LINK, "disable_ipv6") == 0)
		r = link_sysctl_write("ipv6", SERVICE_LINK, "disable_ipv6", 1, e);
	if (!r)
		r = link_set_up(l, link.index, e);
	if (!r)
		r = address_put(l, link.index, &j->net->ipv4, &j->service->ipv4, forwarded, e);
	if (!r)
		r = address_put(l, link.index, &j->net->ipv6, &j->service->ipv6, forwarded, e);
	return r;
}

/* Close dnsmasq's port to the guests: cairn-dns asks it in their place. */
static int port_close(const struct jail *j, struct err *e)
{
	struct nft *nft;
	char text[256];
	int r;

	if (!network_has_names(j->net))
		return 0;
	snprintf(text, sizeof(text), "table inet cairn_dns {\nchain input {\ntype filter hook input priority filter; policy accept;\n"
		"iifname != \"lo\" meta l4proto { tcp, udp } th dport %d drop\n}\n}\n", DNSMASQ_PORT);
	nft = nft_open(e);
	r = nft ? nft_run(nft, text, e) : -EIO;
	nft_close(nft);
	return r;
}

static int mount_attributes(const char *path, unsigned flags, uint64_t set, uint64_t clear)
{
	struct mount_attr attr = { .attr_set = set, .attr_clr = clear };

	return (int)syscall(SYS_mount_setattr, AT_FDCWD, path, flags, &attr, sizeof(attr));
}

/* Open the folder of tftp_root as dnsmasq's user, so that dnsmasq serves nothing that its user cannot reach by the
 * path. Returns the file descriptor; -errno. */
static int tftp_open(const struct jail *j, struct err *e)
{
	const char *root = j->net->ipv4.tftp_root;
	char path[PATH_MAX];
	int fd, error;

	snprintf(path, sizeof(path), "%s/.", root);
	if (setgroups(0, NULL) < 0)
		return err_set_errno(e, -errno, "dnsmasq: groups");
	setfsgid(j->gid);
	setfsuid(j->uid); /* it is mapped: leases_make() has checked that */
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	error = errno;
	setfsuid(0);
	setfsgid(0);
	if (fd >= 0)
		return fd;
	return err_set(e, -error, ERR_HOST, "network '%s': dnsmasq's user (%u) cannot read the folder of ipv4.tftp_root, %.400s: %s; %s",
		j->net->name, (unsigned)j->uid, root, strerror(error), error == EACCES ? "let all users read it and pass through its parents "
		"(chmod o+rx), or name a folder such as /srv/tftp" : "make the folder, or name another");
}

static int tftp_mount(const struct jail *j, int root, struct err *e)
{
	char from[32];

	snprintf(from, sizeof(from), "/proc/self/fd/%d", root);
	if (mount(from, SERVICE_FOLDER "/" TFTP_FOLDER, NULL, MS_BIND | MS_REC, NULL) < 0)
		return err_set_errno(e, -errno, "dnsmasq: cannot mount %.400s", j->net->ipv4.tftp_root);
	return 0;
}

/* Put the network's folder in the place of /tmp, and make everything else read-only. */
static int files_confine(const struct jail *j, struct err *e)
{
	CLEANUP_CLOSE int root = j->net->ipv4.tftp_root ? tftp_open(j, e) : -1;

	if (root < 0 && j->net->ipv4.tftp_root)
		return root;
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 || mount(j->folder, SERVICE_FOLDER, NULL, MS_BIND, NULL) < 0)
		return err_set_errno(e, -errno, "dnsmasq: cannot mount its files");
	if (root >= 0 && tftp_mount(j, root, e) < 0)
		return -EIO;
	/* Linux before 5.12 has no mount_setattr(): the files' modes protect them. */
	if (mount_attributes("/", AT_RECURSIVE, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, 0) < 0)
		return errno == ENOSYS || errno == EPERM ? 0 : err_set_errno(e, -errno, "dnsmasq: cannot make its mounts read-only");
	if (mount_attributes(SERVICE_FOLDER, 0, 0, MOUNT_ATTR_RDONLY) < 0)
		return err_set_errno(e, -errno, "dnsmasq: cannot make its files writable");
	return 0;
}

static int privileges_reduce(const struct jail *j, struct err *e)
{
	static const int kept[] = { CAP_NET_ADMIN, CAP_NET_RAW, CAP_NET_BIND_SERVICE };
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct caps[_LINUX_CAPABILITY_U32S_3] = { 0 };
	const struct lockdown_limit limits[] = { { RLIMIT_NOFILE, FILES_MAX }, { RLIMIT_CORE, 0 }, { RLIMIT_FSIZE, FILE_MAX_BYTES } };

	for (size_t i = 0; i < ARRAY_SIZE(kept); i++) {
		caps[CAP_TO_INDEX(kept[i])].permitted |= CAP_TO_MASK(kept[i]);
		caps[CAP_TO_INDEX(kept[i])].effective |= CAP_TO_MASK(kept[i]);
		caps[CAP_TO_INDEX(kept[i])].inheritable |= CAP_TO_MASK(kept[i]);
	}
	if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0 || setgroups(0, NULL) < 0 || setresgid(j->gid, j->gid, j->gid) < 0 ||
		setresuid(j->uid, j->uid, j->uid) < 0 || syscall(SYS_capset, &head, caps) < 0)
		return err_set_errno(e, -errno, "dnsmasq: cannot become user %u", (unsigned)j->uid);
	for (size_t i = 0; i < ARRAY_SIZE(kept); i++)
		if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, kept[i], 0, 0) < 0)
			return err_set_errno(e, -errno, "dnsmasq: capabilities");
	return lockdown_limits(limits, ARRAY_SIZE(limits), e);
}

static int standard_fds(int errors)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	return null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(errors, 2) < 0 ? -errno : 0;
}

static int namespaces_enter(const struct jail *j, struct err *e)
{
	int r = unshare(CLONE_NEWNS | CLONE_NEWIPC | (j->netns < 0 ? CLONE_NEWNET : 0));

	if (!r && j->netns >= 0)
		r = setns(j->netns, CLONE_NEWNET);
	if (r < 0 && errno == EPERM)
		return err_set(e, -EPERM, ERR_PERMISSION, "a network with DHCP or DNS requires CAP_SYS_ADMIN, for a namespace; %s",
			privileges_remedy());
	return r < 0 ? err_set_errno(e, -errno, "dnsmasq: cannot make its namespaces") : 0;
}

static void child_run(const struct jail *j, const struct pipes *p, pid_t parent, struct err *e)
{
	char config[128], byte = 0, *argv[] = { (char *)"dnsmasq", config, NULL }, *env[] = { NULL };
	int r;

	oom_protection_drop();
	snprintf(config, sizeof(config), "--conf-file=" SERVICE_FOLDER "/%s", j->net->config);
	r = namespaces_enter(j, e);
	if (r < 0)
		return;
	if (j->netns < 0) {
		if (write_full(p->ready[1], &byte, 1) < 0 || read(p->go[0], &byte, 1) != 1)
			_exit(1);
		r = namespace_configure(j, e);
	}
	if (!r)
		r = port_close(j, e);
	if (!r)
		r = files_confine(j, e);
	if (!r)
		r = privileges_reduce(j, e);
	if (r < 0)
		return;
	/* A change of credentials has cleared this. */
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	if (getppid() != parent || standard_fds(p->errors[1]) < 0 || chdir("/") < 0)
		_exit(1);
	/* libnftables' socket is not closed by itself, and it belongs to the host's network namespace. (Linux 5.11;
	 * before that, dnsmasq closes it at its start.) */
	close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
	execve(j->program, argv, env);
	err_set_errno(e, -errno, "cannot run %s", j->program);
}

/* ---- in the parent ---- */

static void pipes_close(struct pipes *p)
{
	int *all[] = { p->ready, p->go, p->errors };

	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		for (size_t k = 0; k < 2; k++)
			if (all[i][k] >= 0)
				close(steal_fd(&all[i][k]));
}

/* Read with a limit of time. Returns the number of bytes; 0 at the end; -ETIMEDOUT; -errno. */
static ssize_t read_timed(int fd, void *buf, size_t size)
{
	int r = poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1, START_MS);
	ssize_t got;

	if (r <= 0)
		return r < 0 ? -errno : -ETIMEDOUT;
	got = read(fd, buf, size);
	return got < 0 ? -errno : got;
}

/* If the bridge is deleted, the host must not follow dnsmasq's router advertisements by the veth: its route would then
 * overlap the network. */
static int veth_silence(const struct network *n, struct err *e)
{
	return link_sysctl_read("ipv6", n->veth, "disable_ipv6") == 0 ? link_sysctl_write("ipv6", n->veth, "disable_ipv6", 1, e) : 0;
}

/* Wait until the child runs dnsmasq. */
static int child_follow(const struct jail *j, struct pipes *p, pid_t pid, struct err *e)
{
	struct err why;
	char byte;
	ssize_t got;
	int r;

	if (j->netns < 0) {
		got = read_timed(p->ready[0], &why, sizeof(why));
		if (got == 1) {
			r = link_make_veth(j->links, j->net->veth, j->bridge, j->net->mtu, SERVICE_LINK, j->net->veth_mac, pid, e);
			if (!r)
				r = veth_silence(j->net, e);
			if (r < 0)
				return r;
			byte = 0;
			if (write_full(p->go[1], &byte, 1) < 0)
				return err_set(e, -EIO, ERR_HOST, "dnsmasq's process has ended before its start");
			got = read_timed(p->ready[0], &why, sizeof(why));
		}
	} else
		got = read_timed(p->ready[0], &why, sizeof(why));
	if (got == sizeof(why)) {
		*e = why;
		return -EIO;
	}
	return got ? err_set(e, -ETIMEDOUT, ERR_TIMEOUT, "dnsmasq's namespace is not ready after %d s", START_MS / 1000) : 0;
}

/* Wait for dnsmasq's first process: it ends when the one that remains serves. */
static int dnsmasq_follow(struct pipes *p, pid_t pid, struct err *e)
{
	CLEANUP_CLOSE int fd = pidfd_open(pid, 0);
	char text[STDERR_MAX + 1];
	int status, r = fd < 0 ? -1 : poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1, START_MS);
	ssize_t got;

	if (r <= 0)
		return err_set(e, -ETIMEDOUT, ERR_TIMEOUT, "dnsmasq does not serve after %d s", START_MS / 1000);
	if (waitpid(pid, &status, 0) == pid && WIFEXITED(status) && !WEXITSTATUS(status))
		return 0;
	fcntl(p->errors[0], F_SETFL, O_NONBLOCK);
	got = read(p->errors[0], text, STDERR_MAX);
	text[got > 0 ? got : 0] = 0;
	for (char *c = text; *c; c++)
		if ((unsigned char)*c < ' ')
			*c = ' ';
	return err_set(e, -EIO, ERR_HOST, "dnsmasq does not start: %s", text[0] ? text + strspn(text, " ") : "it says nothing");
}

/* Wait for the end of dnsmasq's second process, which leads the session and only starts the third one. */
static bool leader_reap(pid_t pid)
{
	CLEANUP_CLOSE int fd = -1;

	if (waitpid(pid, NULL, WNOHANG) == pid)
		return true;
	if (getsid(pid) != pid)
		return false;
	fd = pidfd_open(pid, 0);
	return fd >= 0 && poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1, START_MS) > 0 && waitpid(pid, NULL, 0) == pid;
}

/* Find the process that dnsmasq has left behind: it became a child of this one. Returns 0 if there is none. */
static pid_t orphan_find(void)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/task/%d/children", (int)getpid());
	for (bool again = true; again;) {
		CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
		char text[128] = "", *next = text;

		again = false;
		if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
			return 0;
		for (pid_t pid; (pid = (pid_t)strtol(next, &next, 10)) > 0;) {
			if (!leader_reap(pid))
				return pid;
			again = true;
		}
	}
	return 0;
}

static void child_kill(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

int jail_start(const struct jail *j, pid_t *ret, struct err *e)
{
	struct pipes p CLEANUP(pipes_close) = { { -1, -1 }, { -1, -1 }, { -1, -1 } };
	pid_t parent = getpid(), pid;
	int r;

	if (pipe2(p.ready, O_CLOEXEC) < 0 || pipe2(p.go, O_CLOEXEC) < 0 || pipe2(p.errors, O_CLOEXEC) < 0 ||
		prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0)
		return err_set_errno(e, -errno, "dnsmasq: pipes");
	pid = fork();
	if (pid < 0)
		return err_set_errno(e, -errno, "dnsmasq: fork");
	if (!pid) {
		struct err why = { 0 };

		prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
		close(p.ready[0]);
		close(p.go[1]);
		child_run(j, &p, parent, &why);
		write_full(p.ready[1], &why, sizeof(why));
		_exit(1);
	}
	close(steal_fd(&p.ready[1]));
	close(steal_fd(&p.go[0]));
	close(steal_fd(&p.errors[1]));
	r = child_follow(j, &p, pid, e);
	if (r < 0) {
		child_kill(pid);
		return r;
	}
	r = dnsmasq_follow(&p, pid, e);
	if (r == -ETIMEDOUT)
		child_kill(pid);
	*ret = orphan_find();
	return r;
}
