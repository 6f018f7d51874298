"""Rules of this repository: folders mapped below zoo/, tests run by pytest."""

def _mapped_impl(ctx):
    outputs = []
    for source in ctx.files.srcs:
        output = ctx.actions.declare_file("zoo/" + source.short_path)
        ctx.actions.symlink(output = output, target_file = source)
        outputs.append(output)
    return [DefaultInfo(
        files = depset(outputs),
        runfiles = ctx.runfiles(files = outputs),
    )]

mapped = rule(
    implementation = _mapped_impl,
    attrs = {"srcs": attr.label_list(allow_files = True)},
    doc = "Lays files of a top-level folder below zoo/, as setup.py installs them.",
)

def zoo_library(folder, deps = []):
    """A py_library named after a top-level folder, importable as zoo.<folder>."""
    mapped(
        name = folder + "_files",
        srcs = native.glob([folder + "/**/*.py"]),
    )
    native.py_library(
        name = folder,
        srcs = [":%s_files" % folder],
        imports = ["."],
        deps = deps,
        visibility = ["//visibility:public"],
    )

def zoo_test(source, deps, data = [], tags = []):
    """A py_test that runs one test file under pytest.

    Args:
      source: path of the file, tests/test_<name>.py.
      deps: libraries the test imports.
      data: files the test reads beyond pytest's own settings.
      tags: Bazel's tags.
    """
    native.py_test(
        name = source[len("tests/"):-len(".py")],
        size = "medium",
        srcs = [source, "//bazel:runner.py"],
        main = "//bazel:runner.py",
        args = ["$(location %s)" % source],
        data = ["pyproject.toml"] + data,
        deps = deps,
        tags = tags,
    )
