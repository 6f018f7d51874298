"""Empty stand-ins for the repositories that Bazel 4 fetches but Python never needs."""

# Repository: the folder of its defs.bzl and the native rules it re-exports.
_NATIVE = {
    "rules_cc": ("cc", [
        "cc_binary",
        "cc_import",
        "cc_library",
        "cc_proto_library",
        "cc_test",
        "cc_toolchain",
        "cc_toolchain_suite",
        "objc_library",
    ]),
    "rules_java": ("java", [
        "java_binary",
        "java_import",
        "java_library",
        "java_proto_library",
        "java_runtime",
        "java_toolchain",
    ]),
}

_COVERAGE = """
filegroup(
    name = "coverage_report_generator",
    visibility = ["//visibility:public"],
)
"""

def _stub_repository_impl(repository_ctx):
    repository_ctx.file("WORKSPACE", "")
    if repository_ctx.name not in _NATIVE:
        repository_ctx.file("BUILD", _COVERAGE)
        return
    folder, rules = _NATIVE[repository_ctx.name]
    definitions = ["%s = native.%s" % (rule, rule) for rule in rules]
    repository_ctx.file("BUILD", "")
    repository_ctx.file(folder + "/BUILD", "")
    repository_ctx.file(folder + "/defs.bzl", "\n".join(definitions) + "\n")

stub_repository = repository_rule(implementation = _stub_repository_impl)
