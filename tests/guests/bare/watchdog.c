/* The 6300ESB watchdog, as Linux's driver uses it. */
#include "bare.h"

#define CONFIG 0x60
#define LOCK 0x68
#define LOCK_ENABLE 2
#define REG_STAGE1 0x00
#define REG_STAGE2 0x04
#define REG_RELOAD 0x0c
#define RELOAD_PING 0x100
#define RELOAD_TIMED_OUT 0x200
#define TICK_NS 983040 /* period of a 33 MHz bus's clock divided by 2^15 */

static void unlock(uint64_t bar)
{
	*(volatile uint16_t *)(bar + REG_RELOAD) = 0x80;
	*(volatile uint16_t *)(bar + REG_RELOAD) = 0x86;
}

static void reload(uint64_t bar, uint16_t v)
{
	unlock(bar);
	*(volatile uint16_t *)(bar + REG_RELOAD) = v;
}

static void stage_set(uint64_t bar, unsigned reg, uint64_t ms)
{
	unlock(bar);
	*(volatile uint32_t *)(bar + reg) = (uint32_t)(ms * 1000000 / TICK_NS);
}

static void show(uint16_t bdf, uint64_t bar)
{
	print("config=%x lock=%x stage1=%x stage2=%x reload=%x\n", (uint64_t)pci_read(bdf, CONFIG, 2),
		(uint64_t)pci_read(bdf, LOCK, 1), (uint64_t)*(volatile uint32_t *)(bar + REG_STAGE1),
		(uint64_t)*(volatile uint32_t *)(bar + REG_STAGE2),
		(uint64_t)*(volatile uint16_t *)(bar + REG_RELOAD));
}

static const char *cmd_watchdog(const struct args *a)
{
	int bdf = pci_find(0x8086, 0x25ab, 0);
	uint64_t bar = bdf < 0 ? 0 : pci_bar((uint16_t)bdf, 0);

	if (!bar)
		return "no watchdog";
	if (str_equal(a->s[0], "start") && a->n > 1) {
		pci_write((uint16_t)bdf, CONFIG, 2, 3); /* no interrupt after the first stage */
		stage_set(bar, REG_STAGE1, a->v[1] / 2);
		stage_set(bar, REG_STAGE2, a->v[1] - a->v[1] / 2);
		pci_write((uint16_t)bdf, LOCK, 1, LOCK_ENABLE);
		reload(bar, RELOAD_PING);
	} else if (str_equal(a->s[0], "ping")) {
		reload(bar, RELOAD_PING);
	} else if (str_equal(a->s[0], "stop")) {
		pci_write((uint16_t)bdf, LOCK, 1, 0);
	} else if (str_equal(a->s[0], "clear")) {
		reload(bar, RELOAD_TIMED_OUT);
	} else if (str_equal(a->s[0], "show")) {
		show((uint16_t)bdf, bar);
	} else {
		return "start MS, ping, stop, clear or show";
	}
	return NULL;
}

const struct command watchdog_commands[] = {
	{"watchdog", 1, 1, "start MS | ping | stop | clear | show", cmd_watchdog},
	{0},
};
