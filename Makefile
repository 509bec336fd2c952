# Cairn. `make demo` shows it, `make check` tests it, `make help` lists the rest.
#
# Each top folder, with all folders below it, becomes build/lib<folder>.a; its main.c is a program.
# Unit tests: tests/unit/<folder>/.../test_<noun>.c, one program each.

BUILD   ?= build
CC      ?= gcc
CFLAGS  ?= -O2 -g
V       ?= 0
PREFIX  ?= /usr/local
LIBDIR  ?= $(PREFIX)/lib# below PREFIX
DESTDIR ?=
VERSION := 0.1.0

ifeq ($(V),0)
Q = @
say = @echo "  $(1)	$(patsubst $(BUILD)/%,%,$(2))"
endif

# Warnings are errors with the compiler of Debian 12, on which CI runs. Those that a later one adds stop no build.
ifeq (12,$(shell $(CC) -dumpversion 2>/dev/null))
WERROR := -Werror
endif
WARN := -Wall -Wextra -Wshadow -Wmissing-prototypes -Wstrict-prototypes -Wimplicit-fallthrough \
        -Wpointer-arith -Wvla -Wundef $(WERROR)
ifneq (,$(findstring clang,$(shell $(CC) --version 2>/dev/null)))
WARN += -Wno-gnu-variable-sized-type-not-at-end
else
WARN += -Wmaybe-uninitialized -Wno-format-truncation
endif
comma   := ,
SAN     ?=
HARDEN  := -fstack-protector-strong
# Some compilers define it by themselves, and CFLAGS may, too.
ifeq (,$(SAN)$(findstring _FORTIFY_SOURCE,$(CFLAGS)))
HARDEN  += -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2
endif
# Time limits in tests are for plain builds; sanitizers take several times as long.
SLOW = $(if $(SAN),10,1)
ALL_CFLAGS = -std=gnu11 -DTEST_SLOW=$(SLOW) -D_GNU_SOURCE -DCAIRN_VERSION='"$(VERSION)"' -I. -I$(BUILD)/gen -MMD -MP -pthread \
             -fPIC -fvisibility=hidden $(WARN) $(HARDEN) $(CFLAGS) $(if $(SAN),-fsanitize=$(SAN) -fno-sanitize-recover=all -fno-omit-frame-pointer)
ALL_LDFLAGS = -pthread -Wl,--build-id -Wl,-z,relro,-z,now $(LDFLAGS) $(if $(SAN),-fsanitize=$(SAN)) $(if $(findstring thread,$(SAN)),tests/tsan.c)

FOLDERS := base block snapshot devices vmm api
# Sources below a folder, at any depth.
sources = $(sort $(shell find $(1) -name '*.c'))
objs = $(patsubst %.c,$(BUILD)/%.o,$(filter-out $(1)/main.c,$(call sources,$(1))))
# The tools share no sources: each program is its own folder.
prog_objs = $(patsubst %.c,$(BUILD)/%.o,$(call sources,$(1)))

lib = $(BUILD)/lib$(1).a
VM_LIBS    := $(foreach f,vmm devices snapshot block base,$(call lib,$(f)))
DAEMON_LIBS := $(foreach f,api base,$(call lib,$(f)))
CLI_LIBS   := $(foreach f,api snapshot block base,$(call lib,$(f)))
IMG_LIBS   := $(foreach f,snapshot block base,$(call lib,$(f)))
TEST_LIBS  := $(foreach f,api vmm devices snapshot block base,$(call lib,$(f)))

VM_SYSLIBS     := -luring -lzstd -lz
DAEMON_SYSLIBS := -ljson-c -luring
CLI_SYSLIBS    := -ljson-c -luring
IMG_SYSLIBS    := -ljson-c -luring -lzstd -lz
XML_CFLAGS     := $(patsubst -I%,-isystem %,$(shell pkg-config --cflags libxml-2.0 2>/dev/null))
XML_SYSLIBS    := -lxml2 -ljson-c -luring
TEST_SYSLIBS   := -ljson-c $(VM_SYSLIBS) -lseccomp -lcmocka

# cairn-vm is linked statically: its start is on the path of every VM start,
# and the dynamic linker is not free (0.3 ms of `cairn run`). Sanitizers need
# the dynamic one.
VM_LINK := $(if $(SAN),-pie,-static-pie)
# The start of `cairn` relocates 12,000 pointers of its tables. glibc executes packed relocations from 2.36 on.
CLI_LINK := $(VM_LINK) $(if $(SAN),,-Wl,-T,tools/cairn/start_order.ld $(shell printf '\043include <features.h>\n\043if !__GLIBC_PREREQ(2, 36)\n\043error\n\043endif\n' | $(CC) -E -x c - >/dev/null 2>&1 && echo -Wl,-z,pack-relative-relocs))

PROGRAMS := $(addprefix $(BUILD)/,cairnd cairn-vm cairn cairn-img cairn-archive cairn-delegate cairn-diff cairn-xml cairn-slirp cairn-dial cairn-dns cairn-groups cairn-hook cairn-log cairn-login cairn-metrics cairn-net cairn-publish cairn-root cairn-scope cairn-seed cairn-share cairn-shell cairn-vnc cairn-web cairn-webhook cairn-agent)
# Not with a sanitizer: nbdkit would have to load the sanitizer's library before the plugin.
NBDKIT_PLUGIN := $(if $(SAN),,$(BUILD)/nbdkit-cairn-plugin.so)
UNIT_SRCS := $(filter %.c,$(shell find tests/unit -name 'test_*.c' | sort))
UNITS := $(patsubst tests/unit/%.c,$(BUILD)/unit/%,$(UNIT_SRCS))

.PHONY: all deps demo check check-unit check-e2e check-long check-iotests check-asan check-tsan check-asan-e2e check-tsan-e2e style bench bench-compare soak fuzz kernel install uninstall deb clean help units
all: $(PROGRAMS) $(NBDKIT_PLUGIN) $(BUILD)/libcairn.a $(BUILD)/api.schema.json
units: $(UNITS)

define folder_rule
$(call lib,$(1)): $(call objs,$(1))
	$$(call say,AR,$$@)
	$$(Q)rm -f $$@ && ar qcs $$@ $$^ # q: members may have the same name
endef
$(foreach f,$(FOLDERS),$(eval $(call folder_rule,$(f))))

$(BUILD)/tools/xml/%.o: ALL_CFLAGS += $(XML_CFLAGS)
$(BUILD)/%.o: %.c Makefile
	$(call say,CC,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CFLAGS) -c $< -o $@

link = $(Q)$(CC) $(ALL_LDFLAGS) $(1) -o $@ $(filter %.o %.a,$^) $(2)

$(BUILD)/cairn-vm: $(BUILD)/vmm/main.o $(VM_LIBS)
	$(call say,LINK,$@)
	$(call link,$(VM_LINK),$(VM_SYSLIBS))
$(BUILD)/cairnd: $(BUILD)/api/main.o $(BUILD)/vmm/vm_msg.o $(DAEMON_LIBS)
	$(call say,LINK,$@)
	$(call link,-pie,$(DAEMON_SYSLIBS))
# Static as well: that saves half a millisecond of each start of cairn, such as `cairn run`.
$(BUILD)/cairn: $(call prog_objs,tools/cairn) $(BUILD)/tools/metrics/openmetrics.o $(BUILD)/vmm/vm_msg.o $(CLI_LIBS) tools/cairn/start_order.ld
	$(call say,LINK,$@)
	$(call link,$(CLI_LINK),$(CLI_SYSLIBS))
$(BUILD)/cairn-img: $(call prog_objs,tools/img) $(call lib,api) $(IMG_LIBS)
	$(call say,LINK,$@)
	$(call link,-pie,$(IMG_SYSLIBS))
$(BUILD)/cairn-archive: $(call prog_objs,tools/archive) $(call lib,api) $(call lib,devices) $(IMG_LIBS)
	$(call say,LINK,$@)
	$(call link,-pie,-larchive -ldeflate -lnettle $(IMG_SYSLIBS))
# libext2fs is in this program alone: it reads what guests have written.
$(BUILD)/cairn-diff: $(call prog_objs,tools/diff) $(BUILD)/tools/archive/helper.o $(call lib,api) $(IMG_LIBS)
	$(call say,LINK,$@)
	$(call link,-pie,-lext2fs -lcom_err $(IMG_SYSLIBS))
# Only this program parses XML. cairn is linked statically, without libxml2, and the daemon does not load libxml2.
$(BUILD)/cairn-xml: $(call prog_objs,tools/xml) $(DAEMON_LIBS)
	$(call say,LINK,$@)
	$(call link,-pie,$(XML_SYSLIBS))
$(BUILD)/cairn-slirp: $(call prog_objs,tools/slirp) $(call lib,base)
	$(call say,LINK,$@)
	$(call link,-pie,-lslirp -luring)
$(BUILD)/cairn-publish: $(call prog_objs,tools/publish) $(BUILD)/tools/slirp/control.o $(call lib,base)
	$(call say,LINK,$@)
	$(call link,-pie,-luring)
$(BUILD)/cairn-vnc: $(call prog_objs,tools/vnc) $(call lib,base)
	$(call say,LINK,$@)
	$(call link,-pie,-lvncserver -luring)
$(BUILD)/cairn-share: $(call prog_objs,tools/share) $(call lib,base)
	$(call say,LINK,$@)
	$(call link,-pie,-luring)
$(BUILD)/cairn-dial: $(call prog_objs,tools/dial) $(call lib,base)
	$(call say,LINK,$@)
	$(call link,-pie,-luring)
$(BUILD)/cairn-dns: $(call prog_objs,tools/dns) $(call lib,base)
	$(call say,LINK,$@)
	$(call link,-pie,-luring)
# Dynamic: the system's user databases are libraries that the C library loads.
$(BUILD)/cairn-groups: $(call prog_objs,tools/groups) $(call lib,base)
	$(call say,LINK,$@)
	$(call link,-pie,-luring)
# Dynamic for the same reason.
$(BUILD)/cairn-hook: $(call prog_objs,tools/hook) $(call lib,base)
	$(call say,LINK,$@)
	$(call link,-pie,-luring)
# libcurl is in this program alone: the daemon speaks to no server.
$(BUILD)/cairn-webhook: $(call prog_objs,tools/webhook) $(DAEMON_LIBS)
	$(call say,LINK,$@)
	$(call link,-pie,-lcurl -lnettle -ljson-c -luring)
# libedit is in this program alone: it would slow each start of cairn.
$(BUILD)/cairn-shell: $(call prog_objs,tools/shell) $(call lib,base)
	$(call say,LINK,$@)
	$(call link,-pie,-ledit -luring)
$(BUILD)/cairn-scope: $(call prog_objs,tools/scope) $(call lib,base)
	$(call say,LINK,$@)
	$(call link,-pie,-luring)
$(BUILD)/cairn-log: $(call prog_objs,tools/log) $(call lib,base)
	$(call say,LINK,$@)
	$(call link,-pie,-luring)
# A web server: its library is in this program alone.
$(BUILD)/cairn-metrics: $(call prog_objs,tools/metrics) $(call lib,api) $(call lib,base)
	$(call say,LINK,$@)
	$(call link,-pie,-lmicrohttpd -ljson-c -luring)
$(BUILD)/cairn-web: $(call prog_objs,tools/web) $(addprefix $(BUILD)/tools/metrics/,connections.o listen.o) $(BUILD)/tools/delegate/link.o $(BUILD)/tools/login/message.o $(call lib,api) $(call lib,base)
	$(call say,LINK,$@)
	$(call link,-pie,-lmicrohttpd -lgnutls -ljson-c -luring)
# PAM is in this program alone, with root's rights and without a web server. A sanitizer's crypt() calls address 0 if
# libcrypt is loaded only later, by a module of PAM.
SAN_CRYPT = $(if $(SAN),-Wl$(comma)--no-as-needed -lcrypt)
$(BUILD)/cairn-login: $(call prog_objs,tools/login) $(call lib,base)
	$(call say,LINK,$@)
	$(call link,-pie,-lpam -luring $(SAN_CRYPT))
$(BUILD)/cairn-delegate: $(call prog_objs,tools/delegate) $(DAEMON_LIBS)
	$(call say,LINK,$@)
	$(call link,-pie,$(DAEMON_SYSLIBS))
$(BUILD)/tools/web/pages.o: $(wildcard tools/web/page/*)
$(BUILD)/cairn-net: $(call prog_objs,tools/net) $(DAEMON_LIBS)
	$(call say,LINK,$@)
	$(call link,-pie,-lmnl -lnftables -ljson-c -luring)
# The guest's agent: static, since it runs in any guest, and small, with musl where it is installed. No sanitizer is in it.
AGENT_CC := $(if $(shell command -v musl-gcc),musl-gcc -idirafter /usr/include/$(shell gcc -print-multiarch) -idirafter /usr/include,$(CC))
AGENT_SRCS := $(call sources,tools/agent) base/agent_frame.c base/tree_stream.c
$(BUILD)/cairn-agent: $(AGENT_SRCS) $(wildcard tools/agent/*.h) base/agent_frame.h base/tree_stream.h Makefile
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(AGENT_CC) -std=gnu11 -D_GNU_SOURCE -I. -Os -Wall -Wextra -Wshadow -Wmissing-prototypes $(WERROR) -static -s -ffunction-sections \
		-fno-asynchronous-unwind-tables -Wl,--gc-sections -o $@ $(AGENT_SRCS)
$(BUILD)/cairn-root: $(call prog_objs,tools/root) $(DAEMON_LIBS)
	$(call say,LINK,$@)
	$(call link,-pie,-larchive -lnettle -ljson-c -luring)
$(BUILD)/cairn-seed: $(call prog_objs,tools/seed) $(DAEMON_LIBS)
	$(call say,LINK,$@)
	$(call link,-pie,-larchive -ljson-c -luring)
# schema-print prints the schema, from which the files for clients in other languages are generated.
$(BUILD)/schema-print: $(call prog_objs,tools/client) $(DAEMON_LIBS)
	$(call say,LINK,$@)
	$(call link,-pie,$(DAEMON_SYSLIBS))
$(BUILD)/gen/api.json: $(BUILD)/schema-print
	$(call say,GEN,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$< >$@.tmp && mv $@.tmp $@
# generate.py also writes the OpenRPC document, the JSON Schema of a network's definition, the types for TypeScript,
# and the Python package.
$(BUILD)/api.schema.json: $(BUILD)/gen/api.json $(wildcard tools/client/*.py tools/client/python/* tools/client/python/*/*)
	$(call say,GEN,$@)
	$(Q)tools/client/generate.py $< $(BUILD)
# For programs in C (api/wire/client.h): one object, in which all symbols except the client's are local.
CLIENT_OBJS := $(addprefix $(BUILD)/,api/wire/client.o api/wire/wire.o api/wire/json.o api/wire/json_keys.o api/wire/json_numbers.o base/utf8.o base/uuid.o base/hex.o base/err.o base/fd_send.o base/file.o base/unix_socket.o)
$(BUILD)/libcairn.a: $(CLIENT_OBJS)
	$(call say,AR,$@)
	$(Q)ld -r -o $(BUILD)/libcairn.o $^
	$(Q)objcopy -w --keep-global-symbol='client_*' --keep-global-symbol=err_class_name $(BUILD)/libcairn.o
	$(Q)rm -f $@ && ar rcs $@ $(BUILD)/libcairn.o
# The plugin opens images with cairn-img's functions.
$(BUILD)/nbdkit-cairn-plugin.so: $(BUILD)/tools/nbd/plugin.o $(BUILD)/tools/img/open.o $(IMG_LIBS)
	$(call say,LINK,$@)
	$(call link,-shared,-luring -lzstd -lz)

# The DSDT is ASL source; iasl leaves it as a C array.
$(BUILD)/gen/dsdt_bios.h: IASL_DEFINES := -D BIOS
$(BUILD)/gen/dsdt_uefi.h: IASL_DEFINES := -D BIOS -D UEFI
$(BUILD)/gen/dsdt_1.h: IASL_DEFINES := -D NO_HOTPLUG
$(BUILD)/gen/dsdt_7.h: IASL_DEFINES := -D SLOTS_APPENDED
$(BUILD)/gen/dsdt_8.h: IASL_DEFINES := -D SLOTS_APPENDED -D BIOS
$(BUILD)/gen/dsdt_9.h: IASL_DEFINES := -D SLOTS_APPENDED -D BIOS -D UEFI
DSDTS := $(addprefix $(BUILD)/gen/,dsdt.h dsdt_bios.h dsdt_uefi.h dsdt_1.h dsdt_7.h dsdt_8.h dsdt_9.h)
$(DSDTS): vmm/boot/dsdt.asl
SSDTS := $(addprefix $(BUILD)/gen/,ssdt_keyboard.h ssdt_cpus.h)
$(SSDTS): $(BUILD)/gen/%.h: vmm/boot/%.asl
$(DSDTS) $(SSDTS): $(BUILD)/gen/%.h:
	$(call say,IASL,$@)
	$(Q)mkdir -p $(@D)
	$(Q)iasl -vs -oa $(IASL_DEFINES) -p $(@D)/$* -tc $< >$(@D)/$*.log 2>&1 || { cat $(@D)/$*.log; exit 1; }
	$(Q)sed -i 's/^unsigned char /static const unsigned char /' $(@D)/$*.hex && mv $(@D)/$*.hex $@
$(BUILD)/vmm/boot/acpi.o: $(DSDTS) $(SSDTS)

# Fixtures lie in the top folder of their tests.
unit_top = tests/unit/$(firstword $(subst /, ,$*))
fixtures = $(patsubst %.c,$(BUILD)/%.o,$(wildcard $(unit_top)/fixture*.c))
.SECONDEXPANSION:
# Keep objects that only a rule with a pattern names. Other objects are none of these: make does not make a missing one
# for a library that is newer than its source.
.SECONDARY: $(patsubst %.c,$(BUILD)/%.o,$(shell find tests/unit -name 'fixture*.c'))
$(BUILD)/unit/%: tests/unit/%.c $$(fixtures) $(TEST_LIBS)
	$(call say,TEST,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CFLAGS) -MF $@.d $(ALL_LDFLAGS) $(UNIT_LDFLAGS) -pie -o $@ $< -I$(unit_top) $(filter %.o,$^) $(TEST_LIBS) $(TEST_SYSLIBS)

# What fuzzers share with the tests that replay them, and a tool for inputs: see tests/fuzz/fuzz_image.h.
FUZZ_OBJ := $(BUILD)/tests/fuzz/
$(BUILD)/unit/block/qcow2/test_fuzz: $(addprefix $(FUZZ_OBJ)image_,run.o seed.o mutate.o finds.o)
$(BUILD)/unit/snapshot/test_state_fuzz: $(addprefix $(FUZZ_OBJ)state_,run.o seed.o)
$(BUILD)/unit/devices/test_device_fuzz: $(FUZZ_OBJ)device_run.o
$(BUILD)/unit/api/test_api_fuzz: UNIT_LDFLAGS = -Wl,--wrap=vm_spawn_begin,--wrap=vm_spawn_fd,--wrap=vm_spawn_end,--wrap=vm_socket_peek_pid,--wrap=loop_run_once
$(BUILD)/unit/block/qcow2/test_qcow2: UNIT_LDFLAGS = -Wl,--wrap=loop_readv
$(BUILD)/unit/block/qcow2/test_powercut_snapshot: UNIT_LDFLAGS = -Wl,--wrap=loop_writev
$(BUILD)/unit/vmm/kvm/test_guest_cpu: UNIT_LDFLAGS = -Wl,--wrap=kvm_cpuid_guest_run,--wrap=kvm_ioctl
$(BUILD)/unit/devices/virtio/test_blk_limits: UNIT_LDFLAGS = -Wl,--wrap=loop_now_ns
$(BUILD)/unit/devices/pci/test_pci: UNIT_LDFLAGS = -Wl,--wrap=loop_now_ns
$(BUILD)/unit/devices/virtio/test_virtio_net: UNIT_LDFLAGS = -Wl,--wrap=loop_now_ns
$(BUILD)/unit/devices/virtio/test_net_pairs: UNIT_LDFLAGS = -Wl,--wrap=ioctl
$(BUILD)/unit/devices/virtio/test_net_vhost: UNIT_LDFLAGS = -Wl,--wrap=ioctl
$(BUILD)/unit/api/policy/test_scheduler: UNIT_LDFLAGS = -Wl,--wrap=clock_gettime,--wrap=vm_process_request,--wrap=snapshots_fetch,--wrap=snapshot_delete_where
$(BUILD)/unit/api/policy/test_timetables: UNIT_LDFLAGS = -Wl,--wrap=store_put
$(BUILD)/unit/api/policy/test_thresholds: UNIT_LDFLAGS = -Wl,--wrap=clock_gettime,--wrap=store_put,--wrap=vm_process_request
$(BUILD)/unit/api/policy/test_vm_space: UNIT_LDFLAGS = -Wl,--wrap=clock_gettime,--wrap=store_put,--wrap=vm_process_request,--wrap=fork_as_begin,--wrap=fork_as_free
$(BUILD)/unit/api/jobs/test_fork_files: UNIT_LDFLAGS = -Wl,--wrap=open
$(BUILD)/unit/api/jobs/test_pin_release: UNIT_LDFLAGS = -Wl,--wrap=clock_gettime,--wrap=vm_process_request,--wrap=vm_process_pid,--wrap=vm_process_knows,--wrap=vm_process_version
$(BUILD)/unit/api/access/test_groups: UNIT_LDFLAGS = -Wl,--wrap=loop_now_ns,--wrap=pidfd_send_signal
$(BUILD)/unit/api/access/test_open_as: UNIT_LDFLAGS = -Wl,--wrap=loop_now_ns
$(BUILD)/unit/api/store/test_store: UNIT_LDFLAGS = -Wl,--wrap=file_close_async,--wrap=usleep
$(BUILD)/unit/api/wire/test_conn: UNIT_LDFLAGS = -Wl,--wrap=accounts_new
$(BUILD)/unit/vmm/agent/test_agent $(BUILD)/unit/vmm/agent/test_agent_late: UNIT_LDFLAGS = -Wl,--wrap=loop_timer_new
$(BUILD)/unit/vmm/machine/test_machine_fork: UNIT_LDFLAGS = -Wl,--wrap=memory_attach
$(BUILD)/unit/api/vm/test_vm_log: | $(BUILD)/cairn-log
$(BUILD)/unit/tools/test_openmetrics: $(BUILD)/tools/metrics/openmetrics.o
$(BUILD)/unit/tools/test_agent_busy: $(addprefix $(BUILD)/tools/agent/,session.o start.o root.o user.o copy.o renew.o network.o)
$(BUILD)/unit/tools/test_login: $(addprefix $(BUILD)/tools/login/,message.o limits.o)
$(BUILD)/unit/tools/test_connections: $(BUILD)/tools/metrics/connections.o
$(BUILD)/unit/tools/test_vnc_picture: $(addprefix $(BUILD)/tools/vnc/,keymap.o link.o picture.o)
SHARE_OBJ := $(addprefix $(BUILD)/tools/share/,share.o share_names.o share_files.o nodes.o)
$(BUILD)/unit/tools/test_share_fuzz: $(addprefix $(FUZZ_OBJ)share_,run.o seed.o) $(SHARE_OBJ)
$(BUILD)/unit/tools/test_share: $(SHARE_OBJ)
$(BUILD)/unit/api/wire/test_client: UNIT_LDFLAGS = -Wl,--wrap=ppoll
$(BUILD)/unit/api/test_api_fuzz: $(addprefix $(FUZZ_OBJ),wire_run.o config_run.o script_run.o script_vm.o script_mutate.o)

# Programs that only tests use: a VM process that fails on demand.
HELPERS := $(patsubst tests/%.c,$(BUILD)/%,$(sort $(wildcard tests/helpers/*.c)))
PRELOADS := $(patsubst tests/helpers/preload/%.c,$(BUILD)/helpers/%.so,$(sort $(wildcard tests/helpers/preload/*.c)))
VM_HELPERS := $(patsubst tests/helpers/vm/%.c,$(BUILD)/helpers/%_vm,$(sort $(wildcard tests/helpers/vm/*.c)))
IMG_HELPERS := $(patsubst tests/helpers/img/%.c,$(BUILD)/helpers/%_img,$(sort $(wildcard tests/helpers/img/*.c)))
DAEMON_HELPERS := $(patsubst tests/helpers/daemon/%.c,$(BUILD)/helpers/%_cairnd,$(sort $(wildcard tests/helpers/daemon/*.c)))
HELPER_LIBS_vnc_client := -lvncclient
HELPER_LIBS_container := -ljson-c
# Static like cairn-vm, because benchmarks compare the two.
HELPER_LIBS_kvm_limit := $(filter -static-pie,$(VM_LINK))
helpers: $(HELPERS) $(PRELOADS) $(VM_HELPERS) $(IMG_HELPERS) $(DAEMON_HELPERS)
.PHONY: helpers
# Each is a cairn-vm in which a test's functions replace those of WRAP_NAME.
WRAP_fake_cpuid := kvm_cpuid_read
WRAP_fail_io    := read pread pwrite
WRAP_traitor    := thread_filter_enter loop_run vcpu_exit_handle channel_send
$(BUILD)/helpers/%_vm: tests/helpers/vm/%.c $(BUILD)/vmm/main.o $(VM_LIBS)
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CFLAGS) -MF $@.d $(ALL_LDFLAGS) -pie $(WRAP_$*:%=-Wl,--wrap=%) -o $@ $< $(filter %.o %.a,$^) $(VM_SYSLIBS)
# Each is a cairn-img with replaced functions, likewise.
$(BUILD)/helpers/%_img: tests/helpers/img/%.c $(call prog_objs,tools/img) $(call lib,api) $(IMG_LIBS)
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CFLAGS) -MF $@.d $(ALL_LDFLAGS) -pie -Wl,--wrap=pread,--wrap=img_seal -o $@ $< $(filter %.o %.a,$^) $(IMG_SYSLIBS)
# Each is a cairnd with replaced functions, likewise.
WRAP_stuck      := loop_run
$(BUILD)/helpers/%_cairnd: tests/helpers/daemon/%.c $(BUILD)/api/main.o $(BUILD)/vmm/vm_msg.o $(DAEMON_LIBS)
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CFLAGS) -MF $@.d $(ALL_LDFLAGS) -pie $(WRAP_$*:%=-Wl,--wrap=%) -o $@ $< $(filter %.o %.a,$^) $(DAEMON_SYSLIBS)
$(BUILD)/helpers/%.so: tests/helpers/preload/%.c
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) -fPIC -shared -o $@ $<
$(BUILD)/helpers/%: tests/helpers/%.c $(BUILD)/vmm/vm_msg.o $(call lib,snapshot) $(call lib,base)
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CFLAGS) -MF $@.d $(ALL_LDFLAGS) -pie -o $@ $< $(filter %.o %.a,$^) -luring -lseccomp $(HELPER_LIBS_$*)

# A build takes all CPUs, unless the caller chose a number.
ALL_CPUS = --no-print-directory $(if $(filter -j%,$(MAKEFLAGS)),,-j$(shell nproc))

deps:
	$(Q)tests/deps.sh

check: deps
	$(Q)$(MAKE) $(ALL_CPUS) all units helpers guests
	$(Q)tests/run.sh $(BUILD)
check-unit: units
	$(Q)UNIT_SECONDS=$(UNIT_SECONDS) tests/run.sh $(BUILD) unit
check-e2e: all helpers guests
	$(Q)tests/run.sh $(BUILD) e2e
# The tests that take too long for every change (tests/long.sh).
check-long: all units helpers guests
	$(Q)tests/long.sh $(BUILD)
# QEMU's own tests of its image tool, with cairn-img in its place.
check-iotests: $(BUILD)/cairn-img
	$(Q)tests/iotests/run.py $(BUILD)
# -Wno-restrict: gcc 12, when it instruments code, warns that two members of one struct overlap.
ASAN := BUILD=build-asan SAN=address,undefined CFLAGS="-O1 -g -Wno-restrict"
# -Wno-tsan: gcc warns that TSan does not support fences. Only another process reads the values that they order.
TSAN := BUILD=build-tsan SAN=thread CFLAGS="-O1 -g -Wno-tsan"
check-asan:
	$(Q)$(MAKE) $(ALL_CPUS) $(ASAN) UNIT_SECONDS=1200 check-unit
check-tsan:
	$(Q)$(MAKE) $(ALL_CPUS) $(TSAN) UNIT_SECONDS=1200 check-unit
# All but what has another host or a real Linux for minutes; E2E_ARGS replaces it.
SAN_E2E = E2E_SECONDS=$${E2E_SECONDS:-10000} \
	E2E_ARGS="$${E2E_ARGS:-tests/e2e $(patsubst %,--ignore-glob=*/test_%.py,linux svmhost)}"
check-asan-e2e:
	$(Q)$(SAN_E2E) $(MAKE) $(ALL_CPUS) $(ASAN) check-e2e
check-tsan-e2e:
	$(Q)$(SAN_E2E) $(MAKE) $(ALL_CPUS) $(TSAN) check-e2e

# clang's fuzzer; FUZZ=600 for ten minutes each.
FUZZ ?= 60
fuzz: deps
	$(Q)$(MAKE) $(ALL_CPUS) BUILD=build-fuzz CC=clang SAN=address,undefined,fuzzer-no-link CFLAGS="-O1 -g" \
		$(foreach f,$(FOLDERS),build-fuzz/lib$(f).a) build-fuzz/vmm/vm_msg.o
	$(Q)tests/fuzz/run.sh build-fuzz $(FUZZ)

guests:
	$(Q)$(MAKE) --no-print-directory -C tests/guests BUILD=$(if $(filter /%,$(BUILD)),,../../)$(BUILD)/guests # not $(abspath): it may contain spaces
.PHONY: guests

style:
	$(Q)tests/style.sh
bench: all helpers guests
	$(Q)tests/bench/run.py --build $(BUILD) $(if $(ONLY),--only $(ONLY))
bench-compare: all helpers guests
	$(Q)tests/bench/compare.py --build $(BUILD) --ref "$(REF)" $(if $(ONLY),--only "$(ONLY)") $(if $(ROUNDS),--rounds $(ROUNDS))
# Random requests of several users against a model: SEED repeats a run.
TIME ?= 600
soak: all guests
	$(Q)tests/soak/run.py --build $(BUILD) --time $(TIME) $(if $(SEED),--seed $(SEED)) $(if $(HITS),--hits $(HITS)) $(if $(filter no,$(KILLS)),--hits 0 --no-kills)
demo:
	$(Q)tests/deps.sh demo
	$(Q)$(MAKE) $(ALL_CPUS) all guests
	$(Q)tests/demo.sh $(BUILD)

$(BUILD)/definition.schema.json: $(BUILD)/cairn
	$(call say,GEN,$@)
	$(Q)$< validate --schema > $@.tmp && mv $@.tmp $@

LIBEXEC := $(addprefix $(BUILD)/,$(filter cairn-%,$(filter-out cairn-img,$(notdir $(PROGRAMS)))))
UNITS_INSTALLED := $(addprefix system/,$(notdir $(wildcard tools/systemd/*.service tools/systemd/*.socket))) \
                   $(addprefix user/,$(notdir $(wildcard tools/systemd/user/*)))
FISH_COMPLETIONS := share/fish/vendor_completions.d
# PAM reads /etc/pam.d only. An installation with another PREFIX, such as for a test, changes nothing there.
PAMDIR ?= $(if $(filter /usr /usr/local,$(PREFIX)),/etc/pam.d,$(PREFIX)/etc/pam.d)
# Debian's zsh looks here for packages' files, and below /usr/local as zsh does everywhere.
ZSH_COMPLETIONS := share/zsh/$(if $(filter /usr,$(PREFIX)),vendor-completions,site-functions)
# The kernels of cairn run, for one vCPU and for several: install and deb take them if they have been built.
VMLINUX ?= $(wildcard $(BUILD)/vmlinux)
VMLINUX_SMP ?= $(wildcard $(BUILD)/vmlinux-smp)
kernel:
	$(Q)dir=$$(tests/guests/linux/build.sh up) && install -D -m 644 "$$dir/vmlinux" $(BUILD)/vmlinux
	$(Q)dir=$$(tests/guests/linux/build.sh smp) && install -D -m 644 "$$dir/vmlinux" $(BUILD)/vmlinux-smp

install: all $(BUILD)/definition.schema.json
	install -d $(addprefix $(DESTDIR)$(PREFIX)/,bin sbin libexec/cairn share/cairn share/doc/cairn share/man/man1 share/man/man3 share/bash-completion/completions $(ZSH_COMPLETIONS) $(FISH_COMPLETIONS) \
		include/cairn/api include/cairn/base lib/systemd/system lib/systemd/user lib/sysusers.d lib/tmpfiles.d lib/udev/rules.d) \
		$(DESTDIR)$(LIBDIR)/nbdkit/plugins $(DESTDIR)$(LIBDIR)/pkgconfig
	install -m 755 $(BUILD)/cairn $(BUILD)/cairn-img $(DESTDIR)$(PREFIX)/bin
	install -m 644 $(addprefix $(BUILD)/,definition.schema.json network-definition.schema.json api.schema.json openrpc.json cairn.d.ts) tools/metrics/examples/* $(DESTDIR)$(PREFIX)/share/cairn
	$(if $(VMLINUX),install -m 644 $(VMLINUX) $(DESTDIR)$(PREFIX)/share/cairn/vmlinux)
	$(if $(VMLINUX_SMP),install -m 644 $(VMLINUX_SMP) $(DESTDIR)$(PREFIX)/share/cairn/vmlinux-smp)
	install -d $(DESTDIR)$(PREFIX)/share/cairn/python/cairn_client
	install -m 644 $(BUILD)/python/pyproject.toml $(DESTDIR)$(PREFIX)/share/cairn/python
	install -m 644 $(BUILD)/python/cairn_client/*.py $(BUILD)/python/cairn_client/py.typed $(DESTDIR)$(PREFIX)/share/cairn/python/cairn_client
	install -m 755 $(BUILD)/cairnd $(DESTDIR)$(PREFIX)/sbin
	install -m 755 $(LIBEXEC) $(DESTDIR)$(PREFIX)/libexec/cairn
	for u in $(UNITS_INSTALLED); do \
		sed '/^# make install/d; s,@SBINDIR@,$(PREFIX)/sbin,; s,@BINDIR@,$(PREFIX)/bin,; s,@LIBEXECDIR@,$(PREFIX)/libexec/cairn,' tools/systemd/$${u#system/} >$(DESTDIR)$(PREFIX)/lib/systemd/$$u || exit 1; done
	install -m 644 tools/systemd/sysusers.conf $(DESTDIR)$(PREFIX)/lib/sysusers.d/cairn.conf
	install -m 644 tools/systemd/sysusers-web.conf $(DESTDIR)$(PREFIX)/lib/sysusers.d/cairn-web.conf
	install -m 644 tools/systemd/tmpfiles.conf $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/cairn.conf
	install -d $(DESTDIR)$(PAMDIR)
	install -m 644 tools/login/cairn-web.pam $(DESTDIR)$(PAMDIR)/cairn-web
	install -m 644 tools/udev/60-cairn.rules $(DESTDIR)$(PREFIX)/lib/udev/rules.d
	for p in cairn cairn-img; do install -m 644 tools/completion/$$p.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/$$p; done
	install -m 644 tools/completion/cairn.zsh $(DESTDIR)$(PREFIX)/$(ZSH_COMPLETIONS)/_cairn
	install -m 644 tools/completion/cairn.fish $(DESTDIR)$(PREFIX)/$(FISH_COMPLETIONS)/cairn.fish
	install -m 644 api/wire/client.h $(DESTDIR)$(PREFIX)/include/cairn/api
	install -m 644 base/err.h $(DESTDIR)$(PREFIX)/include/cairn/base
	install -m 644 $(BUILD)/libcairn.a $(DESTDIR)$(LIBDIR)
	sed 's,@PREFIX@,$(PREFIX),; s,@LIBDIR@,$(LIBDIR),; s,@VERSION@,$(VERSION),' api/cairn.pc.in >$(DESTDIR)$(LIBDIR)/pkgconfig/cairn.pc
	install -m 755 $(NBDKIT_PLUGIN) $(DESTDIR)$(LIBDIR)/nbdkit/plugins
	for m in docs/man/*.[13]; do install -m 644 $$m $(DESTDIR)$(PREFIX)/share/man/man$${m##*.}; done
	install -m 644 docs/*.md $(DESTDIR)$(PREFIX)/share/doc/cairn
# uninstall removes folders that are not Cairn's own only if they are empty.
LIB := $(patsubst $(PREFIX)/%,%,$(LIBDIR))
INSTALLED := bin/cairn bin/cairn-img sbin/cairnd libexec/cairn share/cairn share/doc/cairn include/cairn $(LIB)/libcairn.a $(LIB)/pkgconfig/cairn.pc \
             $(LIB)/nbdkit/plugins/nbdkit-cairn-plugin.so $(addprefix share/bash-completion/completions/,cairn cairn-img) $(ZSH_COMPLETIONS)/_cairn $(FISH_COMPLETIONS)/cairn.fish \
             lib/udev/rules.d/60-cairn.rules lib/sysusers.d/cairn.conf lib/sysusers.d/cairn-web.conf lib/tmpfiles.d/cairn.conf \
             $(addprefix lib/systemd/,$(UNITS_INSTALLED)) $(addprefix share/man/man1/,$(notdir $(wildcard docs/man/*.1))) \
             $(addprefix share/man/man3/,$(notdir $(wildcard docs/man/*.3)))
uninstall:
	rm -f $(DESTDIR)$(PAMDIR)/cairn-web
	rm -rf $(addprefix $(DESTDIR)$(PREFIX)/,$(INSTALLED))
	for d in $(sort $(dir $(INSTALLED))); do \
		(cd $(DESTDIR)$(PREFIX) 2>/dev/null && rmdir -p --ignore-fail-on-non-empty $$d 2>/dev/null) || :; done
# The packages are built from the sources anew, in BUILD/deb.
deb:
	$(Q)tools/packaging/deb.sh $(BUILD) $(VERSION)
clean:
	rm -rf build build-asan build-tsan build-clang build-fuzz
help:
	@echo "all          build the programs, in build/ (the default)"
	@echo "deps         install the packages that are missing (as root)"
	@echo "demo         boot a real Linux, take a snapshot, delete a file in the guest, revert"
	@echo "check        run style, unit and end-to-end tests"
	@echo "check-unit   run unit tests; units: build them"
	@echo "check-e2e    run end-to-end tests; helpers, guests: build the programs and guests that they need"
	@echo "check-long   run tests that take too long for every change: power cuts, kills, storms of snapshots"
	@echo "check-iotests  run QEMU's tests of qcow2 with qemu-img and with cairn-img; ONLY=\"042 061\", SETS=extended_l2"
	@echo "check-asan   run unit tests with the address and undefined behaviour sanitizers"
	@echo "check-tsan   run unit tests with the thread sanitizer"
	@echo "check-asan-e2e, check-tsan-e2e   run end-to-end tests with programs built with these sanitizers"
	@echo "fuzz         run each fuzzer for FUZZ=60 seconds"
	@echo "style        check the rules of the house style that a machine can check"
	@echo "bench        run benchmarks, also of peers; ONLY=NAME for one of them"
	@echo "bench-compare  run benchmarks of this build and of commit REF alternately, and name the rows that changed; ONLY=NAME,NAME, ROUNDS=7"
	@echo "soak         make random requests of several users and compare with a model; TIME=600 seconds, SEED=N repeats a run, HITS=0.1 kills the daemon during that part of the requests, KILLS=no lets one daemon answer all of them"
	@echo "kernel       build the kernels of cairn run, for one vCPU and for several; needs linux-source-6.1 or -6.12"
	@echo "install      install into PREFIX=/usr/local, below DESTDIR="
	@echo "uninstall    remove the files that install has put there"
	@echo "deb          build Debian packages, in build/deb"
	@echo "clean        remove the build folders"
	@echo "With BUILD=dir  V=1  CC=clang  SAN=address,undefined"

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
