# Names that vulture finds no use of, and that stay: they complete a manual's table or record, or others call them.
# A name that is simply dead does not belong here.

# hatchling calls the hook; the console script calls main.
Hook, initialize, main

# Fields of `hv table --json` and of the table of assists, for whoever reads those.
_.schema, _.assists_per_op, _.manual

# hv/silicon/x86_64/svm.py: the VMCB (APM vol. 2, appendix B), its exit codes (appendix C), the bits of its fields.
_.asid, _.tlb_control, _.int_vector, _.exitcode, _.exitinfo1, _.exitintinfo, _.exitintinfo_err
_.es, _.ds, _.gs, _.dr6, _.dr7, _.sfmask, _.kernel_gs_base, _.sysenter_cs, _.sysenter_esp, _.sysenter_eip, _.g_pat
INIT, NMI, SMI, INVD, TASK_SWITCH, ICEBP, MWAIT_ARMED, WBINVD, XSETBV, EVENT_NMI, NPF_PRESENT, NPF_WRITE

# hv/silicon/x86_64/breakpoints.py, cpu.py: pointers that only microcode.c follows.
_.break_filter, _.break_pages, _.break_marks, _.virtual_apic, virtual_apic

# modes/paravirt/backends/netif.py: the flags, types and statuses of public/io/netif.h.
DATA_VALIDATED, EXTRA_HASH, DROPPED

# pytest reads it.
pytestmark

# hv/silicon/x86_64/state.py, paging.py, lapic.py: registers, flags, and the bits of a page-table entry.
RBP, DS, ES, FS, GS, CF, TF, HF_GUEST, HF_LMA, _.hflags2, _.ldt, _.gdt, NX, USER, WRITABLE, APR

# Students' classes inherit from it.
KitMode

# pytest reads these in a test module and in a plug-in.
pytestmark, pytest_addoption, pytest_configure

# Textual calls or reads these of an application, a screen, a widget or a driver.
TITLE, CSS_PATH, AUTO_FOCUS, BINDINGS, compose, render_line, get_system_commands
_.caption, _.border_title, _.border_subtitle, _.virtual_size, _.driver_class, is_headless, post_display_hook

# pytest reads these in a test module.
pytestmark, file_extension, _write_mode

# hv/devices/e1000/registers.py, hv/silicon/fw_cfg.py: names of a data sheet's and a specification's bits and items.
CTRL_FRCDPLX, RCTL_SBP, ITEM_COMMAND_SIZE, ITEM_CPUS, ITEM_KERNEL_DATA, ITEM_KERNEL_SIZE, ITEM_RAM_SIZE
ITEM_COMMAND_DATA, _.describe
# hv/devices/ata_identify.py, hv/host/nbd_protocol.py: the same.
PIO_DEFAULT, REP_BLOCK_SIZE, CHUNK_ERROR_OFFSET
# hv/silicon/ixgbe/rings.py: fields that are set by their register's name.
_.dca, _.rsc
# modes/paravirt/bus.py, grants.py: states and statuses that Xen's headers list.
UNKNOWN, INITIALISED, RECONFIGURING, RECONFIGURED, NO_DEVICE_SPACE, ADDRESS_TOO_BIG
