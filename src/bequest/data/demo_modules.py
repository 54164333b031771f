"""The modules whose prose makes the embedded corpora: a fixed list, so that what else is installed changes nothing.

Per corpus, per directory, the modules (without ``.py``).  Modules that an installation lacks are passed over.
"""

from __future__ import annotations

MODULES: dict[str, dict[str, str]] = {
    "python": {
        "": (
            "__future__ _aix_support _bootsubprocess _collections_abc _compat_pickle _compression _markupbase "
            "_osx_support _py_abc _pydecimal _pyio _sitebuiltins _strptime _threading_local _weakrefset abc aifc "
            "argparse ast asynchat asyncore base64 bdb bisect bz2 cProfile calendar cgi cgitb chunk cmd code "
            "codecs codeop colorsys compileall configparser contextlib copy copyreg crypt csv dataclasses "
            "datetime difflib dis doctest enum filecmp fileinput fnmatch fractions ftplib functools genericpath "
            "getopt getpass gettext glob graphlib gzip hashlib heapq hmac imaplib imp inspect io ipaddress "
            "keyword linecache locale lzma mailbox mailcap mimetypes modulefinder netrc nntplib ntpath nturl2path "
            "numbers opcode operator optparse os pathlib pdb pickle pickletools pipes pkgutil platform plistlib "
            "poplib posixpath pprint profile pstats pty py_compile pyclbr pydoc queue quopri random reprlib "
            "rlcompleter runpy sched secrets selectors shelve shlex shutil signal site smtpd smtplib sndhdr "
            "socket socketserver ssl stat statistics string stringprep subprocess sunau symtable sysconfig "
            "tabnanny tarfile telnetlib tempfile textwrap threading timeit tokenize trace traceback tracemalloc "
            "turtle types typing uu uuid warnings weakref webbrowser xdrlib zipapp zipfile zipimport"
        ),
        "asyncio": (
            "__init__ base_events base_futures base_subprocess constants coroutines events exceptions "
            "format_helpers futures locks proactor_events protocols queues runners selector_events sslproto "
            "staggered streams subprocess taskgroups tasks threads timeouts transports trsock unix_events "
            "windows_events windows_utils"
        ),
        "collections": "__init__",
        "concurrent/futures": "__init__ _base process thread",
        "ctypes": "__init__ _aix _endian util wintypes",
        "ctypes/macholib": "dyld",
        "curses": "__init__ has_key textpad",
        "dbm": "__init__ dumb",
        "distutils": (
            "__init__ _msvccompiler archive_util bcppcompiler ccompiler cmd config core cygwinccompiler debug "
            "dep_util dir_util dist errors extension fancy_getopt file_util filelist log msvc9compiler "
            "msvccompiler spawn sysconfig text_file unixccompiler util version versionpredicate"
        ),
        "distutils/command": (
            "__init__ bdist bdist_rpm build build_clib build_ext build_py build_scripts check config install "
            "install_data install_egg_info install_lib install_scripts register sdist upload"
        ),
        "email": (
            "__init__ _encoded_words _header_value_parser _parseaddr _policybase base64mime charset "
            "contentmanager encoders errors feedparser generator header headerregistry iterators message parser "
            "policy quoprimime utils"
        ),
        "email/mime": "application audio base image message multipart nonmultipart text",
        "encodings": (
            "__init__ aliases ascii bz2_codec charmap cp720 cp850 cp852 cp855 cp857 cp860 cp861 cp862 cp863 cp864 "
            "cp865 cp866 cp869 hp_roman8 idna mac_arabic punycode undefined utf_8_sig"
        ),
        "html": "__init__ parser",
        "http": "__init__ client cookiejar cookies server",
        "idlelib": (
            "__init__ autocomplete autocomplete_w autoexpand browser calltip calltip_w codecontext colorizer "
            "config config_key configdialog debugger debugger_r delegator dynoption editor filelist format grep "
            "help help_about history hyperparser idle iomenu macosx mainmenu multicall outwin parenmatch "
            "percolator pyparse pyshell query redirector replace rpc run runscript search searchbase searchengine "
            "sidebar squeezer textview tooltip tree undo util zoomheight zzdummy"
        ),
        "importlib": "__init__ _abc _bootstrap _bootstrap_external abc machinery readers util",
        "importlib/metadata": "__init__ _collections _functools _itertools _meta _text",
        "importlib/resources": "_adapters _common _legacy abc readers simple",
        "json": "__init__ decoder encoder",
        "logging": "__init__ config handlers",
        "multiprocessing": (
            "__init__ connection context forkserver heap managers pool popen_forkserver popen_spawn_win32 process "
            "queues reduction resource_sharer resource_tracker shared_memory sharedctypes spawn synchronize util"
        ),
        "pydoc_data": "topics",
        "re": "__init__ _casefix _compiler _constants _parser",
        "sqlite3": "__init__ dump",
        "tkinter": (
            "__init__ colorchooser commondialog dnd filedialog font messagebox scrolledtext simpledialog tix ttk"
        ),
        "tomllib": "__init__ _parser",
        "turtledemo": (
            "__main__ bytedesign forest fractalcurves lindenmayer minimal_hanoi nim peace penrose planet_and_moon "
            "rosette round_dance sorting_animate tree two_canvases yinyang"
        ),
        "unittest": "__init__ __main__ async_case case loader main mock result runner signals suite util",
        "urllib": "error parse request response robotparser",
        "venv": "__init__",
        "wsgiref": "handlers headers simple_server util validate",
        "xml/dom": "NodeFilter __init__ domreg expatbuilder minicompat minidom pulldom xmlbuilder",
        "xml/etree": "ElementInclude ElementPath ElementTree",
        "xml/sax": "__init__ _exceptions expatreader handler saxutils xmlreader",
        "xmlrpc": "client server",
        "zoneinfo": "_common _tzpath _zoneinfo",
    },
    "numpy": {
        "numpy": (
            "__config__ __init__ __init__.pyi _array_api_info _distributor_init _expired_attrs_2_0 _globals "
            "_pytesttester conftest dtypes dtypes.pyi exceptions matlib"
        ),
        "numpy/_core": (
            "__init__ _add_newdocs _add_newdocs_scalars _asarray _dtype _dtype_ctypes _exceptions _internal "
            "_methods _simd.pyi _string_helpers _type_aliases _ufunc_config arrayprint arrayprint.pyi cversions "
            "defchararray einsumfunc einsumfunc.pyi fromnumeric fromnumeric.pyi function_base getlimits memmap "
            "multiarray multiarray.pyi numeric numeric.pyi numerictypes overrides overrides.pyi printoptions "
            "records shape_base strings umath"
        ),
        "numpy/_core/tests": (
            "_locales _natype test__exceptions test_api test_argparse test_array_coercion test_array_interface "
            "test_arraymethod test_arrayobject test_arrayprint test_casting_floatingpoint_errors "
            "test_casting_unittests test_conversion_utils test_cpu_dispatcher test_cpu_features "
            "test_custom_dtypes test_cython test_datetime test_defchararray test_deprecations test_dlpack "
            "test_dtype test_einsum test_errstate test_extint128 test_finfo test_function_base test_getlimits "
            "test_half test_hashtable test_indexing test_item_selection test_longdouble test_mem_overlap "
            "test_mem_policy test_memmap test_multiarray test_multiprocessing test_multithreading test_nditer "
            "test_nep50_promotions test_numeric test_numerictypes test_overrides test_print test_records "
            "test_regression test_scalar_ctors test_scalar_methods test_scalarbuffer test_scalarinherit "
            "test_scalarmath test_scalarprint test_shape_base test_simd test_simd_module test_stringdtype "
            "test_strings test_ufunc test_umath test_umath_complex test_unicode"
        ),
        "numpy/_core/tests/examples/cython": "setup",
        "numpy/_pyinstaller": "hook-numpy",
        "numpy/_pyinstaller/tests": "pyinstaller-smoke test_pyinstaller",
        "numpy/_typing": (
            "_add_docstring _array_like _char_codes _dtype_like _extended_precision _nbit _nbit_base "
            "_nested_sequence _ufunc.pyi"
        ),
        "numpy/_utils": "__init__ _convertions _inspect _pep440",
        "numpy/core": "__init__ _internal _multiarray_umath multiarray",
        "numpy/ctypeslib": "_ctypeslib _ctypeslib.pyi",
        "numpy/distutils": (
            "__init__ _shell_utils ccompiler ccompiler_opt conv_template core cpuinfo exec_command extension "
            "from_template intelccompiler lib2def line_endings log mingw32ccompiler misc_util msvc9compiler "
            "msvccompiler npy_pkg_config numpy_distribution system_info unixccompiler"
        ),
        "numpy/distutils/command": (
            "autodist build_clib build_ext build_py build_scripts build_src config config_compiler develop "
            "egg_info install install_data"
        ),
        "numpy/distutils/fcompiler": "__init__ absoft compaq environment fujitsu gnu hpux ibm intel vast",
        "numpy/distutils/tests": (
            "test_build_ext test_ccompiler_opt test_exec_command test_from_template test_mingw32ccompiler "
            "test_misc_util test_shell_utils test_system_info utilities"
        ),
        "numpy/doc": "ufuncs",
        "numpy/f2py": "__init__ auxfuncs capi_maps cfuncs crackfortran f2py2e rules symbolic",
        "numpy/f2py/_backends": "_meson",
        "numpy/f2py/tests": (
            "test_array_from_pyobj test_callback test_character test_crackfortran test_docs test_f2py2e test_kind "
            "test_regression util"
        ),
        "numpy/fft": "__init__ _helper _pocketfft",
        "numpy/fft/tests": "test_pocketfft",
        "numpy/lib": (
            "__init__ _array_utils_impl _array_utils_impl.pyi _arraypad_impl _arraypad_impl.pyi _arraysetops_impl "
            "_arraysetops_impl.pyi _arrayterator_impl _datasource _datasource.pyi _format_impl "
            "_function_base_impl _function_base_impl.pyi _histograms_impl _index_tricks_impl "
            "_index_tricks_impl.pyi _iotools _nanfunctions_impl _nanfunctions_impl.pyi _npyio_impl "
            "_npyio_impl.pyi _polynomial_impl _polynomial_impl.pyi _scimath_impl _shape_base_impl "
            "_stride_tricks_impl _twodim_base_impl _twodim_base_impl.pyi _type_check_impl _type_check_impl.pyi "
            "_ufunclike_impl _user_array_impl _utils_impl _version introspect mixins mixins.pyi recfunctions"
        ),
        "numpy/lib/tests": (
            "test__datasource test__iotools test_arraypad test_arraysetops test_format test_function_base "
            "test_histograms test_index_tricks test_io test_loadtxt test_mixins test_nanfunctions test_packbits "
            "test_polynomial test_recfunctions test_shape_base test_stride_tricks test_twodim_base "
            "test_type_check test_utils"
        ),
        "numpy/linalg": "__init__ _linalg",
        "numpy/linalg/tests": "test_deprecations test_linalg",
        "numpy/ma": "__init__ core core.pyi extras mrecords testutils",
        "numpy/ma/tests": "test_core test_extras test_mrecords test_old_ma test_subclassing",
        "numpy/matrixlib": "defmatrix",
        "numpy/matrixlib/tests": "test_defmatrix test_interaction test_masked_matrix test_matrix_linalg",
        "numpy/polynomial": "__init__ _polybase chebyshev hermite hermite_e laguerre legendre polynomial polyutils",
        "numpy/polynomial/tests": "test_chebyshev test_classes test_printing test_symbol",
        "numpy/random": "__init__ _pickle",
        "numpy/random/_examples/numba": "extending_distributions",
        "numpy/random/tests": (
            "test_direct test_generator_mt19937 test_generator_mt19937_regressions test_random test_randomstate "
            "test_randomstate_regression test_seed_sequence test_smoke"
        ),
        "numpy/testing": "__init__ overrides print_coercion_tables",
        "numpy/testing/_private": "extbuild utils utils.pyi",
        "numpy/testing/tests": "test_utils",
        "numpy/tests": (
            "test_ctypeslib test_lazyloading test_numpy_version test_public_api test_reloading test_warnings"
        ),
        "numpy/typing": "__init__ mypy_plugin",
        "numpy/typing/tests": "test_runtime test_typing",
        "numpy/typing/tests/data/fail": "ma.pyi modules.pyi ndarray.pyi ndarray_misc.pyi scalars.pyi",
        "numpy/typing/tests/data/pass": "ndarray_misc simple ufuncs",
    },
    "pandas": {
        "pandas": "__init__ _typing conftest",
        "pandas/_config": "__init__ config display localization",
        "pandas/_testing": "__init__ _io _warnings asserters compat contexts",
        "pandas/api": "internals",
        "pandas/compat": "__init__ _cpu _optional pickle_compat pyarrow",
        "pandas/compat/numpy": "function",
        "pandas/core": (
            "accessor algorithms apply arraylike base col common config_init construction flags frame generic "
            "indexing missing nanops resample roperator sample series sorting"
        ),
        "pandas/core/_numba": "executor extensions",
        "pandas/core/_numba/kernels": "min_max_ var_",
        "pandas/core/array_algos": (
            "__init__ datetimelike_accumulations masked_accumulations masked_reductions putmask quantile replace "
            "take transforms"
        ),
        "pandas/core/arrays": (
            "_arrow_string_mixins _mixins _ranges base boolean categorical datetimelike datetimes floating "
            "integer interval masked numeric numpy_ period string_ string_arrow timedeltas"
        ),
        "pandas/core/arrays/arrow": "_arrow_utils accessors array",
        "pandas/core/arrays/sparse": "accessor array scipy_sparse",
        "pandas/core/computation": "align engines eval expr expressions ops parsing pytables scope",
        "pandas/core/dtypes": "astype base cast common concat dtypes generic inference missing",
        "pandas/core/groupby": "base categorical generic groupby grouper indexing numba_ ops",
        "pandas/core/indexers": "objects utils",
        "pandas/core/indexes": (
            "accessors api base category datetimelike datetimes extension frozen interval multi period range timedeltas"
        ),
        "pandas/core/interchange": "buffer column dataframe dataframe_protocol from_dataframe utils",
        "pandas/core/internals": "api blocks concat construction managers ops",
        "pandas/core/methods": "describe filter select selectn to_dict",
        "pandas/core/ops": "array_ops common dispatch invalid mask_ops missing",
        "pandas/core/reshape": "concat encoding melt merge pivot reshape tile",
        "pandas/core/strings": "__init__ accessor object_array",
        "pandas/core/tools": "datetimes numeric timedeltas times",
        "pandas/core/util": "hashing numba_",
        "pandas/core/window": "ewm expanding numba_ online rolling",
        "pandas/errors": "__init__ cow",
        "pandas/io": (
            "_util clipboards common feather_format html iceberg orc parquet pickle pytables spss sql stata xml"
        ),
        "pandas/io/clipboard": "__init__",
        "pandas/io/excel": "_base _odfreader _odswriter _openpyxl _pyxlsb _util _xlrd _xlsxwriter",
        "pandas/io/formats": "console css csvs excel format html info printing string style style_render xml",
        "pandas/io/json": "_json _normalize _table_schema",
        "pandas/io/parsers": "arrow_parser_wrapper base_parser c_parser_wrapper python_parser readers",
        "pandas/io/sas": "sas7bdat sas_constants sas_xport sasreader",
        "pandas/plotting": "__init__ _core _misc",
        "pandas/plotting/_matplotlib": "__init__ boxplot converter core groupby hist misc style timeseries tools",
        "pandas/tseries": "frequencies holiday",
        "pandas/util": "_decorators _doctools _exceptions _print_versions _test_decorators _tester _validators",
        "pandas/util/version": "__init__",
    },
    "sympy": {
        "sympy": "__init__ abc this",
        "sympy/algebras": "quaternion",
        "sympy/assumptions": "ask ask_generated assume cnf facts lra_satask refine satask sathandlers wrapper",
        "sympy/assumptions/handlers": "__init__ calculus common matrices ntheory order sets",
        "sympy/assumptions/predicates": "__init__ calculus common matrices ntheory order sets",
        "sympy/assumptions/relation": "binrel equality",
        "sympy/calculus": "accumulationbounds euler finite_diff singularities util",
        "sympy/categories": "__init__ baseclasses diagram_drawing",
        "sympy/codegen": (
            "__init__ abstract_nodes algorithms approximations ast cfunctions cnodes fnodes futils matrix_nodes "
            "numpy_nodes rewriting scipy_nodes"
        ),
        "sympy/combinatorics": (
            "coset_table fp_groups free_groups galois generators graycode group_constructs group_numbers "
            "homomorphisms named_groups partitions pc_groups perm_groups permutations polyhedron prufer "
            "rewritingsystem rewritingsystem_fsm schur_number subsets tensor_can testutil util"
        ),
        "sympy/concrete": "delta expr_with_intlimits expr_with_limits gosper guess products summations",
        "sympy/core": (
            "_print_helpers add assumptions assumptions_generated backend basic cache compatibility containers "
            "core coreerrors decorators evalf expr exprtools facts function intfunc kind logic mod mul "
            "multidimensional numbers operations parameters power random relational rules singleton sorting "
            "symbol sympify traversal"
        ),
        "sympy/crypto": "crypto",
        "sympy/diffgeom": "diffgeom rn",
        "sympy/discrete": "convolutions recurrences transforms",
        "sympy/external": "__init__ gmpy importtools ntheory pythonmpq",
        "sympy/functions": "__init__",
        "sympy/functions/combinatorial": "factorials numbers",
        "sympy/functions/elementary": (
            "_trigonometric_special complexes exponential hyperbolic integers miscellaneous piecewise trigonometric"
        ),
        "sympy/functions/special": (
            "bessel beta_functions bsplines delta_functions elliptic_integrals error_functions gamma_functions "
            "hyper mathieu_functions polynomials singularity_functions spherical_harmonics tensor_functions "
            "zeta_functions"
        ),
        "sympy/geometry": "__init__ curve ellipse entity line parabola plane point polygon util",
        "sympy/holonomic": "__init__ holonomic numerical recurrence",
        "sympy/integrals": (
            "deltafunctions heurisch integrals intpoly laplace manualintegrate meijerint meijerint_doc prde "
            "quadrature rationaltools rde risch singularityfunctions transforms trigonometry"
        ),
        "sympy/interactive": "printing session",
        "sympy/liealgebras": (
            "cartan_matrix dynkin_diagram root_system type_a type_b type_c type_d type_e type_f type_g weyl_group"
        ),
        "sympy/logic": "boolalg inference",
        "sympy/logic/algorithms": "dpll dpll2 lra_theory",
        "sympy/logic/utilities": "dimacs",
        "sympy/matrices": (
            "__init__ common decompositions dense determinant eigen exceptions graph immutable inverse kind "
            "matrices matrixbase normalforms reductions repmatrix solvers sparse sparsetools subspaces utilities"
        ),
        "sympy/matrices/expressions": (
            "_shape adjoint applyfunc blockmatrix determinant diagonal dotproduct funcmatrix hadamard inverse "
            "kronecker matadd matexpr matmul matpow permutation sets special trace transpose"
        ),
        "sympy/multipledispatch": "conflict core dispatcher utils",
        "sympy/ntheory": (
            "bbp_pi continued_fraction digits ecm egyptian_fraction elliptic_curve factor_ generate modular "
            "multinomial partitions_ primetest qs residue_ntheory"
        ),
        "sympy/parsing": "ast_parser mathematica sym_expr sympy_parser",
        "sympy/parsing/autolev": "__init__ _build_autolev_antlr _listener_autolev_antlr",
        "sympy/parsing/autolev/_antlr": "autolevlistener",
        "sympy/parsing/c": "c_parser",
        "sympy/parsing/fortran": "fortran_parser",
        "sympy/parsing/latex": "__init__ _build_latex_antlr _parse_latex_antlr",
        "sympy/parsing/latex/lark": "latex_parser transformer",
        "sympy/physics": "hydrogen matrices paulialgebra pring qho_1d secondquant sho wigner",
        "sympy/physics/biomechanics": "__init__ _mixin activation curve musculotendon",
        "sympy/physics/continuum_mechanics": "arch beam cable truss",
        "sympy/physics/control": "control_plots lti",
        "sympy/physics/hep": "gamma_matrices",
        "sympy/physics/mechanics": (
            "actuator body body_base functions inertia joint jointsmethod kane lagrange linearize loads models "
            "particle pathway rigidbody system wrapping_geometry"
        ),
        "sympy/physics/optics": "gaussopt medium polarization utils waves",
        "sympy/physics/quantum": (
            "__init__ anticommutator boson cartesian cg circuitplot circuitutils commutator constants dagger "
            "density fermion gate grover hilbert identitysearch innerproduct kind matrixcache matrixutils "
            "operator operatorordering operatorset pauli piab qapply qasm qexpr qft qubit represent sho1d shor "
            "spin state tensorproduct trace transforms"
        ),
        "sympy/physics/units": "__init__ dimensions prefixes quantities unitsystem util",
        "sympy/physics/units/definitions": "unit_definitions",
        "sympy/physics/units/systems": "mks natural si",
        "sympy/physics/vector": "dyadic fieldfunctions frame functions point printing vector",
        "sympy/plotting": "experimental_lambdify plot plot_implicit plotgrid series textplot utils",
        "sympy/plotting/backends": "base_backend",
        "sympy/plotting/backends/matplotlibbackend": "matplotlib",
        "sympy/plotting/intervalmath": "interval_arithmetic interval_membership lib_interval",
        "sympy/plotting/pygletplot": (
            "__init__ color_scheme managed_window plot plot_interval plot_mode plot_mode_base plot_object "
            "plot_window util"
        ),
        "sympy/polys": (
            "appellseqs compatibility constructor densearith densebasic densetools dispersion distributedmodules "
            "domainmatrix euclidtools factortools fglmtools fields galoistools groebnertools modulargcd monomials "
            "multivariate_resultants orderings orthopolys partfrac polyclasses polyconfig polyerrors polyfuncs "
            "polymatrix polyoptions polyquinticconst polyroots polytools polyutils puiseux rationaltools "
            "ring_series rings rootisolation rootoftools solvers specialpolys sqfreetools subresultants_qq_zz"
        ),
        "sympy/polys/agca": "extensions homomorphisms ideals modules",
        "sympy/polys/benchmarks": "bench_solvers",
        "sympy/polys/domains": (
            "__init__ algebraicfield characteristiczero complexfield compositedomain domain domainelement "
            "expressiondomain field finitefield fractionfield gaussiandomains gmpyintegerring gmpyrationalfield "
            "integerring modularinteger mpelements old_fractionfield old_polynomialring polynomialring "
            "pythonintegerring pythonrational pythonrationalfield quotientring rationalfield realfield ring"
        ),
        "sympy/polys/matrices": (
            "__init__ _dfm ddm dense dfm domainmatrix domainscalar exceptions linsolve normalforms rref sdm"
        ),
        "sympy/polys/numberfields": (
            "basis exceptions galois_resolvents galoisgroups minpoly modules primes subfield utilities"
        ),
        "sympy/printing": (
            "aesaracode c codeprinter conventions dot fortran glsl jscode julia lambdarepr latex llvmjitcode "
            "maple mathematica mathml numpy octave precedence preview printer pycode python pytorch rcode repr "
            "rust smtlib str tableform tensorflow theanocode tree"
        ),
        "sympy/printing/pretty": "pretty pretty_symbology stringpict",
        "sympy/sandbox": "__init__ indexed_integrals",
        "sympy/series": (
            "acceleration approximants formal fourier gruntz kauers limits limitseq order residues sequences "
            "series series_class"
        ),
        "sympy/sets": "conditionset fancysets ordinals powerset setexpr sets",
        "sympy/sets/handlers": "add functions intersection issubset union",
        "sympy/simplify": (
            "_cse_diff combsimp cse_main cse_opts epathtools fu gammasimp hyperexpand powsimp radsimp ratsimp "
            "simplify sqrtdenest traversaltools trigsimp"
        ),
        "sympy/solvers": "bivariate decompogen deutils inequalities pde polysys recurr simplex solvers solveset",
        "sympy/solvers/diophantine": "diophantine",
        "sympy/solvers/ode": "hypergeometric lie_group nonhomogeneous ode riccati single subscheck systems",
        "sympy/stats": (
            "__init__ compound_rv crv crv_types drv drv_types error_prop frv frv_types joint_rv joint_rv_types "
            "matrix_distributions random_matrix random_matrix_models rv rv_interface stochastic_process "
            "stochastic_process_types symbolic_multivariate_probability symbolic_probability"
        ),
        "sympy/strategies": "__init__ core rl tools traverse tree",
        "sympy/strategies/branch": "core tools",
        "sympy/tensor": "functions index_methods indexed tensor toperators",
        "sympy/tensor/array": (
            "__init__ array_comprehension array_derivatives arrayop dense_ndim_array ndim_array sparse_ndim_array"
        ),
        "sympy/tensor/array/expressions": "__init__ array_expressions from_array_to_matrix from_indexed_to_array utils",
        "sympy/testing": "pytest quality_unicode runtests runtests_pytest tmpfiles",
        "sympy/unify": "core rewrite usympy",
        "sympy/utilities": (
            "autowrap codegen decorator enumerative exceptions iterables lambdify matchpy_connector memoization "
            "misc source timeutils"
        ),
        "sympy/utilities/_compilation": "__init__ compilation runners util",
        "sympy/utilities/mathml": "__init__",
        "sympy/vector": (
            "basisdependent coordsysrect deloperator dyadic functions implicitregion integrals kind operators "
            "orienters parametricregion point scalar vector"
        ),
    },
    "networkx": {
        "networkx": "__init__ conftest convert convert_matrix exception lazy_imports relabel",
        "networkx/algorithms": (
            "__init__ asteroidal boundary bridges broadcasting chains chordal clique cluster communicability_alg "
            "core covering cuts cycles d_separation dag distance_measures distance_regular dominance dominating "
            "efficiency_measures euler graph_hashing graphical hierarchy hybrid isolate link_prediction "
            "lowest_common_ancestors matching mis moral node_classification non_randomness perfect_graph "
            "planar_drawing planarity polynomials reciprocity regular richclub similarity simple_paths smallworld "
            "smetric sparsifiers structuralholes summarization swap threshold time_dependent tournament triads "
            "vitality voronoi walks wiener"
        ),
        "networkx/algorithms/approximation": (
            "__init__ clique clustering_coefficient connectivity density distance_measures dominating_set "
            "kcomponents matching maxcut ramsey steinertree traveling_salesman treewidth vertex_cover"
        ),
        "networkx/algorithms/approximation/tests": (
            "test_approx_clust_coeff test_clique test_connectivity test_density test_distance_measures "
            "test_dominating_set test_kcomponents test_steinertree test_traveling_salesman test_treewidth "
            "test_vertex_cover"
        ),
        "networkx/algorithms/assortativity": "connectivity correlation mixing neighbor_degree pairs",
        "networkx/algorithms/assortativity/tests": "test_connectivity test_correlation",
        "networkx/algorithms/bipartite": (
            "__init__ basic centrality cluster covering edgelist extendability generators link_analysis matching "
            "matrix projection redundancy spectral"
        ),
        "networkx/algorithms/bipartite/tests": "test_edgelist test_generators test_matching test_matrix",
        "networkx/algorithms/centrality": (
            "betweenness betweenness_subset closeness current_flow_betweenness current_flow_betweenness_subset "
            "current_flow_closeness degree_alg dispersion eigenvector flow_matrix group harmonic katz laplacian "
            "load percolation reaching second_order subgraph_alg trophic voterank_alg"
        ),
        "networkx/algorithms/centrality/tests": (
            "test_betweenness_centrality test_betweenness_centrality_subset test_group test_laplacian_centrality "
            "test_load_centrality test_reaching test_second_order_centrality test_trophic"
        ),
        "networkx/algorithms/coloring": "equitable_coloring greedy_coloring",
        "networkx/algorithms/coloring/tests": "test_coloring",
        "networkx/algorithms/community": (
            "__init__ asyn_fluid bipartitions centrality community_utils divisive kclique label_propagation "
            "leiden local louvain lukes modularity_max quality"
        ),
        "networkx/algorithms/community/tests": (
            "test_centrality test_label_propagation test_leiden test_modularity_max test_quality"
        ),
        "networkx/algorithms/components": (
            "attracting biconnected connected semiconnected strongly_connected weakly_connected"
        ),
        "networkx/algorithms/components/tests": "test_connected",
        "networkx/algorithms/connectivity": (
            "connectivity cuts disjoint_paths edge_augmentation edge_kcomponents kcomponents kcutsets stoerwagner utils"
        ),
        "networkx/algorithms/connectivity/tests": (
            "test_edge_augmentation test_edge_kcomponents test_kcomponents test_kcutsets test_stoer_wagner"
        ),
        "networkx/algorithms/flow": (
            "boykovkolmogorov capacityscaling dinitz_alg edmondskarp gomory_hu maxflow mincost networksimplex "
            "preflowpush shortestaugmentingpath utils"
        ),
        "networkx/algorithms/flow/tests": "test_maxflow test_maxflow_large_graph test_mincost test_networksimplex",
        "networkx/algorithms/isomorphism": (
            "ismags isomorph isomorphvf2 matchhelpers temporalisomorphvf2 tree_isomorphism vf2pp vf2userfunc"
        ),
        "networkx/algorithms/isomorphism/tests": (
            "test_ismags test_isomorphism test_isomorphvf2 test_temporalisomorphvf2 test_tree_isomorphism "
            "test_vf2pp test_vf2pp_helpers test_vf2userfunc"
        ),
        "networkx/algorithms/link_analysis": "hits_alg pagerank_alg",
        "networkx/algorithms/minors": "__init__ contraction",
        "networkx/algorithms/minors/tests": "test_contraction",
        "networkx/algorithms/operators": "all binary product unary",
        "networkx/algorithms/operators/tests": "test_product",
        "networkx/algorithms/shortest_paths": "astar dense generic unweighted weighted",
        "networkx/algorithms/shortest_paths/tests": "test_astar test_generic test_weighted",
        "networkx/algorithms/tests": (
            "test_boundary test_bridges test_broadcasting test_chains test_clique test_cluster test_cuts "
            "test_cycles test_d_separation test_dag test_distance_measures test_distance_regular test_dominance "
            "test_dominating test_efficiency test_euler test_graph_hashing test_lowest_common_ancestors "
            "test_matching test_max_weight_clique test_mis test_non_randomness test_planar_drawing test_planarity "
            "test_polynomials test_similarity test_simple_paths test_sparsifiers test_structuralholes "
            "test_summarization test_swap test_time_dependent test_tournament test_vitality test_voronoi"
        ),
        "networkx/algorithms/traversal": "beamsearch breadth_first_search depth_first_search edgebfs edgedfs",
        "networkx/algorithms/traversal/tests": "test_beamsearch test_edgebfs test_edgedfs",
        "networkx/algorithms/tree": "branchings coding decomposition distance_measures mst operations recognition",
        "networkx/algorithms/tree/tests": "test_branchings test_coding test_mst test_operations test_recognition",
        "networkx/classes": "coreviews digraph filters function graph graphviews multidigraph multigraph reportviews",
        "networkx/classes/tests": (
            "dispatch_interface historical_tests test_digraph test_function test_graph test_graphviews "
            "test_multidigraph test_multigraph test_subgraphviews"
        ),
        "networkx/drawing": "layout nx_agraph nx_latex nx_pydot nx_pylab",
        "networkx/drawing/tests": (
            "test_agraph test_image_comparison_pylab_mpl test_latex test_layout test_pydot test_pylab"
        ),
        "networkx/generators": (
            "atlas classic cographs community degree_seq directed duplication ego expanders geometric "
            "harary_graph internet_as_graphs intersection interval_graph joint_degree_seq lattice line mycielski "
            "nonisomorphic_trees random_clustered random_graphs small social spectral_graph_forge stochastic "
            "sudoku time_series trees triads"
        ),
        "networkx/generators/tests": (
            "test_atlas test_classic test_cographs test_degree_seq test_directed test_duplication test_expanders "
            "test_geometric test_internet_as_graphs test_joint_degree_seq test_lattice test_line "
            "test_random_graphs test_small test_stochastic test_sudoku test_trees"
        ),
        "networkx/linalg": (
            "algebraicconnectivity attrmatrix bethehessianmatrix graphmatrix laplacianmatrix modularitymatrix spectrum"
        ),
        "networkx/linalg/tests": "test_algebraic_connectivity test_laplacian test_modularity",
        "networkx/readwrite": "adjlist edgelist gexf gml graph6 graphml leda multiline_adjlist p2g pajek sparse6 text",
        "networkx/readwrite/json_graph": "__init__ adjacency cytoscape node_link tree",
        "networkx/readwrite/tests": "test_gexf test_gml test_graph6 test_graphml test_sparse6 test_text",
        "networkx/tests": "test_convert test_convert_numpy test_convert_scipy",
        "networkx/utils": "backends configs decorators heaps mapped_queue misc random_sequence rcm union_find",
        "networkx/utils/tests": "test_backends test_config test_heaps test_misc test_unionfind",
    },
    "torch": {
        "torch": "__init__ _tensor_docs functional",
        "torch/_dynamo": "config decorators guards output_graph symbolic_convert utils",
        "torch/_dynamo/variables": "builder higher_order_ops user_defined",
        "torch/_functorch": "aot_autograd partitioners",
        "torch/_functorch/_aot_autograd": "graph_compile runtime_wrappers schemas",
        "torch/_inductor": "codecache config cudagraph_trees graph ir lowering scheduler select_algorithm utils",
        "torch/_inductor/codegen": "pallas simd triton",
        "torch/_inductor/runtime": "triton_heuristics",
        "torch/_inductor/runtime/caching": "interfaces",
        "torch/_subclasses": "fake_tensor meta_utils",
        "torch/distributed": "distributed_c10d",
        "torch/distributed/fsdp": "_flat_param _optim_utils _runtime_utils fully_sharded_data_parallel",
        "torch/distributed/fsdp/_fully_shard": "_fully_shard",
        "torch/distributed/optim": "zero_redundancy_optimizer",
        "torch/distributed/pipelining": "schedules stage",
        "torch/distributed/tensor": "_api _redistribute",
        "torch/fft": "__init__",
        "torch/fx": "graph",
        "torch/fx/experimental": "proxy_tensor",
        "torch/linalg": "__init__",
        "torch/masked": "_docs",
        "torch/nn": "functional",
        "torch/nn/attention": "flex_attention",
        "torch/nn/modules": "loss module",
        "torch/nn/parallel": "distributed",
        "torch/testing/_internal": "common_device_type common_methods_invocations common_utils",
        "torch/testing/_internal/distributed": "distributed_test",
        "torch/testing/_internal/opinfo": "core",
        "torch/utils": "checkpoint cpp_extension",
        "torch/utils/data": "dataloader",
    },
    "transformers": {
        "transformers": (
            "audio_utils cache_utils configuration_utils conversion_mapping core_model_loading "
            "dynamic_module_utils feature_extraction_sequence_utils feature_extraction_utils hf_argparser "
            "image_processing_base image_processing_utils image_transforms image_utils masking_utils "
            "modeling_flash_attention_utils modeling_layers modeling_outputs modeling_rope_utils monkey_patching "
            "optimization processing_utils testing_utils tokenization_mistral_common tokenization_python "
            "tokenization_utils_base tokenization_utils_tokenizers trainer trainer_callback trainer_pt_utils "
            "trainer_utils training_args video_utils vision_utils"
        ),
        "transformers/cli/serving": "utils",
        "transformers/data": "data_collator",
        "transformers/distributed": "expert_parallel tensor_parallel",
        "transformers/exporters": (
            "base configs exporter_dynamo exporter_executorch exporter_onnx exporter_openvino onnxruntime_fusions utils"
        ),
        "transformers/generation": (
            "candidate_generator configuration_utils logits_process stopping_criteria utils watermarking"
        ),
        "transformers/generation/continuous_batching": (
            "cache continuous_api initialization input_outputs model_runner offloading_manager scheduler"
        ),
        "transformers/generation/continuous_batching/cache_allocators": "cache_allocator",
        "transformers/integrations": (
            "accelerate compressed_tensors deepgemm deepspeed executorch finegrained_fp8 integration_utils moe peft"
        ),
        "transformers/integrations/mistral": "tokenizer",
        "transformers/models/auto": "auto_factory image_processing_auto tokenization_auto video_processing_auto",
        "transformers/models/autoformer": "modeling_autoformer",
        "transformers/models/bark": "generation_configuration_bark modeling_bark",
        "transformers/models/big_bird": "modeling_big_bird",
        "transformers/models/blt": "modeling_blt",
        "transformers/models/clap": "feature_extraction_clap",
        "transformers/models/clvp": "modeling_clvp",
        "transformers/models/cohere": "tokenization_cohere",
        "transformers/models/conditional_detr": "image_processing_conditional_detr modeling_conditional_detr",
        "transformers/models/d_fine": "configuration_d_fine modeling_d_fine",
        "transformers/models/deepseek_v4": "modeling_deepseek_v4",
        "transformers/models/diffusion_gemma": "generation_diffusion_gemma modeling_diffusion_gemma",
        "transformers/models/dpr": "tokenization_dpr",
        "transformers/models/edgetam": "modeling_edgetam",
        "transformers/models/edgetam_video": "configuration_edgetam_video modeling_edgetam_video",
        "transformers/models/efficientloftr": "modeling_efficientloftr",
        "transformers/models/emu3": "image_processing_emu3",
        "transformers/models/eomt": "modeling_eomt",
        "transformers/models/esm": "modeling_esmfold",
        "transformers/models/esm/openfold_utils": "rigid_utils",
        "transformers/models/esmfold2": "configuration_esmfold2 modeling_esmfold2",
        "transformers/models/fastspeech2_conformer": "configuration_fastspeech2_conformer",
        "transformers/models/flaubert": "modeling_flaubert",
        "transformers/models/flava": "modeling_flava",
        "transformers/models/gemma3n": "configuration_gemma3n modeling_gemma3n",
        "transformers/models/gemma4": "modeling_gemma4",
        "transformers/models/gradium_phonon_tts": "configuration_gradium_phonon_tts modeling_gradium_phonon_tts",
        "transformers/models/granite_docling": "modeling_granite_docling",
        "transformers/models/grounding_dino": "modeling_grounding_dino",
        "transformers/models/ibert": "quant_modules",
        "transformers/models/inkling": "configuration_inkling",
        "transformers/models/kosmos2": "processing_kosmos2",
        "transformers/models/layoutlmv2": "tokenization_layoutlmv2",
        "transformers/models/luke": "tokenization_luke",
        "transformers/models/lxmert": "modeling_lxmert",
        "transformers/models/mask2former": "modeling_mask2former",
        "transformers/models/maskformer": "modeling_maskformer",
        "transformers/models/mimi": "modeling_mimi",
        "transformers/models/minimax_m3_vl": "modeling_minimax_m3_vl",
        "transformers/models/mllama": "image_processing_mllama",
        "transformers/models/moshi": "modeling_moshi",
        "transformers/models/musicgen": "modeling_musicgen",
        "transformers/models/nemotron3_5_transcribe": "processing_nemotron3_5_transcribe",
        "transformers/models/nemotron3_diarization": (
            "configuration_nemotron3_diarization modeling_nemotron3_diarization processing_nemotron3_diarization"
        ),
        "transformers/models/nougat": "tokenization_nougat",
        "transformers/models/omdet_turbo": "modeling_omdet_turbo",
        "transformers/models/patchtsmixer": "configuration_patchtsmixer modeling_patchtsmixer",
        "transformers/models/perceiver": "modeling_perceiver",
        "transformers/models/pocket_tts": "generation_pocket_tts",
        "transformers/models/pop2piano": "tokenization_pop2piano",
        "transformers/models/pp_doclayout_v4": "modeling_pp_doclayout_v4",
        "transformers/models/qwen2_5_omni": "modeling_qwen2_5_omni",
        "transformers/models/rag": "modeling_rag",
        "transformers/models/sam": "image_processing_pil_sam processing_sam",
        "transformers/models/sam3": "modeling_sam3",
        "transformers/models/sam3_video": "configuration_sam3_video modeling_sam3_video",
        "transformers/models/sapiens2": "configuration_sapiens2 image_processing_sapiens2",
        "transformers/models/seamless_m4t": "configuration_seamless_m4t modeling_seamless_m4t",
        "transformers/models/speecht5": "modeling_speecht5",
        "transformers/models/tapas": "modeling_tapas tokenization_tapas",
        "transformers/models/univnet": "feature_extraction_univnet",
        "transformers/models/vibevoice": "generation_vibevoice",
        "transformers/models/vits": "configuration_vits",
        "transformers/models/wav2vec2_with_lm": "processing_wav2vec2_with_lm",
        "transformers/models/whisper": "generation_whisper tokenization_whisper",
        "transformers/models/xlnet": "modeling_xlnet",
        "transformers/pipelines": "__init__ any_to_any automatic_speech_recognition base document_question_answering",
        "transformers/utils": (
            "auto_docstring chat_template_utils generic hub import_utils output_capturing quantization_config"
        ),
        "transformers/utils/chat_parsing": "response_parser",
    },
}
