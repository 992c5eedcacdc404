"""The hypercalls, by what they are about: one function each, with its checks, its effect and its errors.

    call(vcpu, arguments) -> result       or raises Refused(errno)

`Again` is for a call on a long list: it has done a bounded part, and the guest's SYSCALL is to be executed once more
with what is left, so that other things can happen in between (Xen: hypercall_create_continuation).
"""
