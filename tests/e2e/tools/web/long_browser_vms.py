"""The page of cairn web in Debian's Chromium: VMs are made, cloned, renamed and undefined, and get and lose devices.
`make check-long`, part "browser". Screenshots: BUILD/web/."""

import contextlib
import json
import os

import pytest

from browserlib import assert_fits_phone, click, click_now, follow, labels, phone, picture, text, wait
from conftest import Daemon, until
from loginlib import ALICE, host_with_daemon
from long_browser import browser, fake_daemon, heading, image  # noqa: F401
from weblib import Web

pytestmark = pytest.mark.seconds(180)
FIELD = """const wanted = arguments[0];
return [...document.querySelectorAll(".field label")].filter((e) => e.firstChild.textContent === wanted && e.checkVisibility()).map((e) => e.control)[0] ?? null"""


def field(browser, label):  # noqa: F811
    """Return the field of that label that is seen."""
    until(lambda: browser.execute_script(FIELD, label))
    return browser.execute_script(FIELD, label)


def fill(browser, **values):  # noqa: F811
    for label, value in values.items():
        e = field(browser, label.replace("_", " "))
        if e.tag_name != "select":
            e.clear()
            e.send_keys(value)
        else:
            from selenium.webdriver.support.ui import Select
            Select(e).select_by_visible_text(value)


def fails(browser, label, words):  # noqa: F811
    """The error is at the field, which has the focus."""
    until(lambda: words in browser.execute_script("return document.getElementById(arguments[0].getAttribute('aria-describedby')).textContent", field(browser, label)))
    assert field(browser, label).get_attribute("aria-invalid") == "true" and browser.switch_to.active_element == field(browser, label)
    assert words in text(browser, "#message")


def definition(d, vm, *args):
    return json.loads(d.cairn("dumpjson", vm, *args).stdout)


def open_new(browser, web):  # noqa: F811
    browser.get(web.address)
    until(lambda: "VMs" in text(browser, "main"))
    follow(browser, "New VM")
    until(lambda: heading(browser) == "New VM")


def test_vm_is_made_by_the_form(tmp_path, browser):  # noqa: F811
    with fake_daemon(tmp_path) as (d, web):
        folder = tmp_path / "images"
        folder.mkdir()
        (tmp_path / "kernel").touch()
        d.define("old")
        d.cairn("pool-define-as", "images", "dir", "--target", str(folder))
        open_new(browser, web)
        assert browser.title == "New VM - Cairn"
        until(lambda: field(browser, "Pool"))
        click(browser, "Create VM")
        fails(browser, "Name", "Give the VM a name")
        fill(browser, Name="web1", Start_from="a kernel", Path_of_the_kernel="/nope", Size_of_the_new_volume="much")
        click(browser, "Create VM")
        fails(browser, "Size of the new volume", "no size such as 20G")
        fill(browser, Size_of_the_new_volume="1G")
        click(browser, "Create VM")
        fails(browser, "Path of the kernel", "No such file")
        assert not list(folder.iterdir()), "the volume of a VM that is not made is deleted"
        picture(browser, "new-vm")
        fill(browser, Path_of_the_kernel=str(tmp_path / "kernel"), Memory="lots")
        click(browser, "Create VM")
        fails(browser, "Memory", "is not a size")
        fill(browser, Memory="64M", Name="old")
        click(browser, "Create VM")
        fails(browser, "Name", 'there is a VM "old" already')
        assert not list(folder.iterdir())
        fill(browser, Name="web1", vCPUs="2", Network="user (no rights needed)", Command_line_of_the_kernel="quiet")
        click(browser, "Create VM")
        until(lambda: heading(browser) == "web1 running")
        made = definition(d, "web1", "--inactive")
        assert (made["memory"], made["vcpus"], made["boot"]["kernel"], made["boot"]["cmdline"]) == ("64M", 2, str(tmp_path / "kernel"), "quiet")
        assert [(one["path"], one["format"]) for one in made["disks"]] == [(str(folder / "web1.qcow2"), "qcow2")]
        assert [one["type"] for one in made["interfaces"]] == ["user"]
        assert "network user" not in text(browser) and f"{folder}/web1.qcow2" in text(browser)


def test_vm_of_a_cd_has_a_screen(tmp_path, browser):  # noqa: F811
    with fake_daemon(tmp_path) as (d, web):
        (tmp_path / "debian.iso").write_bytes(bytes(1 << 20))
        image(tmp_path / "a.qcow2")
        open_new(browser, web)
        fill(browser, Name="deb", Path_of_the_image="a.qcow2", Path_of_an_ISO_for_the_CD_drive=str(tmp_path / "debian.iso"))
        field(browser, "Start it").click()
        click(browser, "Create VM")
        fails(browser, "Path of the image", "must be an absolute path")
        fill(browser, Path_of_the_image=str(tmp_path / "a.qcow2"), Path_of_an_ISO_for_the_CD_drive="debian.iso")
        click(browser, "Create VM")
        fails(browser, "Path of an ISO for the CD drive", "must be an absolute path")
        fill(browser, Path_of_an_ISO_for_the_CD_drive=str(tmp_path / "debian.iso"))
        click(browser, "Create VM")
        until(lambda: heading(browser) == "deb shut off")
        made = definition(d, "deb", "--inactive")
        assert made["boot"]["firmware"] == "bios" and made["screen"] and made["vnc"]["path"] == str(tmp_path / "deb.vnc") and made["disks"][1]["device"] == "cdrom"


def test_vm_is_made_of_json(tmp_path, browser):  # noqa: F811
    with fake_daemon(tmp_path) as (d, web):
        (tmp_path / "kernel").touch()
        open_new(browser, web)
        fill(browser, Name="web1", Memory="64M", Start_from="a kernel", Path_of_the_kernel=str(tmp_path / "kernel"), Disk="none")
        browser.find_element("css selector", "summary").click()
        click(browser, "Fill in from the form")
        area = field(browser, "Definition as JSON")
        right = area.get_attribute("value")
        assert json.loads(right)["name"] == "web1"
        picture(browser, "new-vm-json")

        def said(value, button, words, chosen):
            browser.execute_script("arguments[0].value = arguments[1]", area, value)
            click(browser, button)
            fails(browser, "Definition as JSON", words)
            assert chosen in browser.execute_script("return arguments[0].value.slice(arguments[0].selectionStart, arguments[0].selectionEnd)", area)
        said(right.replace('"vcpus": 1', '"vcpus": 0'), "Check JSON", "Line 4: vcpus: 0 is out of range", '"vcpus": 0')
        said(right.replace('"memory":', '"memory"'), "Check JSON", "Line 3: ", '"memory"')
        said(right.replace('"kernel": ', '"colonel": "", "kernel": '), "Create VM from JSON", '"colonel" is not a key', '"colonel"')
        browser.execute_script("arguments[0].value = arguments[1]", area, right)
        click(browser, "Check JSON")
        until(lambda: "This definition is valid." in text(browser, "#message"))
        assert all(vm["name"] != "web1" for vm in d.qmp().run("vm-list")["vms"])
        click(browser, "Create VM from JSON")
        until(lambda: heading(browser) == "web1 shut off")
        browser.back()
        until(lambda: heading(browser) == "New VM")
        browser.find_element("css selector", "summary").click()
        area = field(browser, "Definition as JSON")
        said(right, "Check JSON", 'there is a VM "web1" already', '"name": "web1"')


def test_vm_that_is_off_is_cloned_renamed_and_undefined(tmp_path, browser):  # noqa: F811
    with contextlib.closing(Daemon(tmp_path)) as d, contextlib.closing(Web(d)) as web:
        image(tmp_path / "a.qcow2")
        (tmp_path / "kernel").touch()
        d.define("vm1", disks=[{"path": "a.qcow2", "format": "qcow2"}])
        browser.get(web.address)
        until(lambda: "1 VMs" in text(browser))
        follow(browser, "vm1")
        click(browser, "Clone, rename, undefine")
        fill(browser, Name_of_the_clone="vm1")
        click(browser, "Clone")
        until(lambda: browser.find_element("id", "message").get_attribute("class") == "error")
        fill(browser, Name_of_the_clone="full")
        click(browser, "Clone")
        until(lambda: "vm-clone: done" in text(browser))
        fill(browser, Name_of_the_clone="thin", Kind_of_clone="linked: its disks stand on those of this VM")
        click(browser, "Clone")
        until(lambda: "vm-clone: done" in text(browser) and field(browser, "Name of the clone").get_attribute("value") == "")
        assert [len(definition(d, vm)["disks"][0].get("backing", [])) for vm in ("full", "thin")] == [0, 1]
        picture(browser, "manage-vm")
        phone(browser)
        assert_fits_phone(browser)
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_script("location.hash = '#/vm/full'")
        until(lambda: heading(browser) == "full shut off")
        click(browser, "Clone, rename, undefine")
        fill(browser, New_name="thin")
        click(browser, "Rename")
        until(lambda: "thin" in text(browser, "#message") and browser.find_element("id", "message").get_attribute("class") == "error")
        fill(browser, New_name="other")
        # The daemon refuses this while it reads the VM's snapshots. When it is done, the page has closed the form.
        until(lambda: click_now(browser, "Rename") or heading(browser) == "other shut off")
        d.cairn("snapshot-create-as", "other", "s1")
        click(browser, "Clone, rename, undefine")
        fill(browser, Type_the_name_of_the_VM="full")
        click(browser, "Undefine")
        fails(browser, "Type the name of the VM", 'This is not "other"')
        fill(browser, Type_the_name_of_the_VM="other")
        click(browser, "Undefine")
        until(lambda: "snapshot" in text(browser, "#message"))
        kept = definition(d, "other")["disks"][0]["path"]
        field(browser, "Undefine it although it has snapshots, which stay in the images that are kept").click()
        click(browser, "Undefine")
        until(lambda: "2 VMs" in text(browser))
        assert os.path.exists(kept)
        gone = definition(d, "thin")["disks"][0]["path"]
        follow(browser, "thin")
        click(browser, "Clone, rename, undefine")
        field(browser, "Delete its disk images").click()
        until(lambda: f"Deletes {gone}" in text(browser, "main"))
        fill(browser, Type_the_name_of_the_VM="thin")
        click(browser, "Undefine")
        until(lambda: "1 VMs" in text(browser))
        assert not os.path.exists(gone)


def confirmed(browser, label):  # noqa: F811
    click(browser, label)
    browser.switch_to.alert.accept()


def ids(d, what, *args):
    return [one["id"] for one in definition(d, "vm1", *args)[what]]


@pytest.mark.parametrize("state", ["off", "running"])
def test_devices_come_and_go_by_clicks(tmp_path, browser, state):  # noqa: F811
    with fake_daemon(tmp_path) as (d, web):
        for name in ("a.qcow2", "b.qcow2"):
            image(tmp_path / name)
        for name in ("a.iso", "b.iso"):
            (tmp_path / name).write_bytes(bytes(1 << 20))
        d.define("vm1", disks=[{"path": "a.qcow2", "format": "qcow2"}, {"id": "cd", "device": "cdrom", "bus": "scsi", "path": "a.iso", "format": "raw"}])
        if state == "running":
            d.cairn("start", "vm1")
        browser.get(web.address)
        until(lambda: "1 VMs" in text(browser))
        follow(browser, "vm1")
        until(lambda: "a.iso" in text(browser))
        click(browser, "Attach a disk")
        fill(browser, Path_of_the_image="b.qcow2")
        click(browser, "Attach disk")
        fails(browser, "Path of the image", "must be an absolute path")
        fill(browser, Path_of_the_image=str(tmp_path / "b.qcow2"))
        click(browser, "Attach disk")
        until(lambda: "Detach vdb" in labels(browser))
        picture(browser, f"devices-{state}")
        click(browser, "Attach a disk")  # closes it
        click(browser, "Attach an interface")
        click(browser, "Attach interface")
        until(lambda: "Detach net0" in labels(browser))
        assert "vdb" in ids(d, "disks", "--inactive") and ids(d, "interfaces", "--inactive") == ["net0"]
        if state == "running":
            assert "vdb" in ids(d, "disks") and ids(d, "interfaces") == ["net0"]
            assert definition(d, "vm1")["interfaces"][0]["mac"] == definition(d, "vm1", "--inactive")["interfaces"][0]["mac"]
            field(browser, "Also for the next starts").click()
            click(browser, "Attach interface")
            until(lambda: "Detach net1" in labels(browser))
            assert ids(d, "interfaces", "--inactive") == ["net0"]
            confirmed(browser, "Detach net1")
            until(lambda: "Detach net1" not in labels(browser))
        confirmed(browser, "Detach vdb")
        until(lambda: "Detach vdb" not in labels(browser))
        confirmed(browser, "Detach net0")
        until(lambda: "Detach net0" not in labels(browser))
        for args in ((), ("--inactive",)):
            assert ids(d, "disks", *args) == ["vda", "cd"] and not definition(d, "vm1", *args).get("interfaces")
        assert os.path.exists(tmp_path / "b.qcow2")
        if state == "running":  # a simulated VM has no trays
            return
        click(browser, "Change medium cd")
        alert = browser.switch_to.alert
        alert.send_keys(str(tmp_path / "b.iso"))
        alert.accept()
        until(lambda: "b.iso" in text(browser))
        click(browser, "Eject cd")
        until(lambda: "no medium" in text(browser) and "Eject cd" not in [e.get_attribute("aria-label") for e in browser.find_elements("css selector", "button") if e.is_displayed()])
        for args in ((), ("--inactive",)):
            assert "path" not in definition(d, "vm1", *args)["disks"][1]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to check passwords and to act for users")
def test_only_what_the_role_permits_is_shown(browser):  # noqa: F811
    with host_with_daemon() as (host, d), contextlib.closing(host.serve(d)) as web:
        image(d.tmp / "a.qcow2")
        d.define("vm-a", disks=[{"path": "a.qcow2", "format": "qcow2"}])

        def role(name, *args):
            d.cairn("grant", name, *args, "--user", str(ALICE))

        def seen(label):
            return any(e.is_displayed() for e in browser.find_elements("css selector", "button, summary, a") if label in (e.get_attribute("aria-label"), e.text))
        role("viewer", "vm-a")
        browser.get(f"{web.base}/#/vm/vm-a")
        wait(browser, "input[name=user]").send_keys("alice")
        browser.find_element("css selector", "input[name=password]").send_keys("right")
        click(browser, "Log in")
        until(lambda: "a.qcow2" in text(browser, "main") and "shut off" in heading(browser))
        admins = ["Detach vda", "Attach a disk", "Attach an interface", "Clone, rename, undefine"]
        assert not any(map(seen, ["Start", *admins]))
        role("operator", "vm-a")
        until(lambda: seen("Start"))
        assert not any(map(seen, admins))
        role("owner", "vm-a")
        until(lambda: all(map(seen, admins)))
        click(browser, "Clone, rename, undefine")
        until(lambda: seen("Rename"))
        assert not seen("Clone"), "this needs a role for other VMs, too"
        browser.execute_script("location.hash = '#/'")
        until(lambda: "1 VMs" in text(browser))
        assert not seen("New VM")
        role("creator")
        until(lambda: seen("New VM"))
        d.cairn("revoke", "--role", "creator", "--user", str(ALICE))
        until(lambda: not seen("New VM"))
