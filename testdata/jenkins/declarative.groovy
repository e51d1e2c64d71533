// A stub of Jenkins' declarative pipelines: it runs a Jenkinsfile's stages by real Groovy, and its sh steps for real.
//
//     groovy declarative.groovy Jenkinsfile
//
// It is not Jenkins: no agents, credentials, plugins, queue or sandbox, and it knows no more of the language than what is
// written here; all else ends with Groovy's own error. What it does know it does as Jenkins documents it: stages one after
// the other, nested stages, environment, when a stage fails none after it, then post of the stages that have run, from
// the inside out; sh is `sh -xe`, and a step that fails ends its stage. The exit status is 0 for SUCCESS, 1 for FAILURE.

class StepFailed extends RuntimeException {
    StepFailed(String message) { super(message) }
}

class Build {
    static String result = 'SUCCESS'
    static Map<String, String> env = [BUILD_NUMBER: System.getenv('BUILD_NUMBER') ?: '1']

    static void say(String text) {
        System.out.println(text)
        System.out.flush()
    }

    static void run(Closure body, Object delegate) {
        Closure copy = (Closure) body.clone()
        copy.delegate = delegate
        copy.resolveStrategy = Closure.DELEGATE_FIRST
        copy.call()
    }
}

class Environment {
    void setProperty(String name, Object value) { Build.env[name] = value.toString() }
    Object getProperty(String name) {
        if (name == 'env') return Build.env
        if (Build.env.containsKey(name)) return Build.env[name]
        throw new MissingPropertyException(name, Environment)
    }
}

class Options {
    void disableConcurrentBuilds() {}
}

class Steps {
    Map<String, String> getEnv() { Build.env }

    void sh(String script) {
        ProcessBuilder builder = new ProcessBuilder('sh', '-xe', '-c', script).redirectErrorStream(true)
        builder.environment().putAll(Build.env)
        builder.redirectOutput(ProcessBuilder.Redirect.INHERIT)
        int code = builder.start().waitFor()
        if (code != 0) throw new StepFailed("script returned exit code ${code}")
    }

    void echo(String text) { Build.say(text) }
    void error(String text) { throw new StepFailed(text) }
}

class Post {
    private boolean failed

    Post(boolean failed) { this.failed = failed }

    void always(Closure body) { step('always', body) }
    void success(Closure body) { if (!failed) step('success', body) }
    void failure(Closure body) { if (failed) step('failure', body) }
    void unsuccessful(Closure body) { if (failed) step('unsuccessful', body) }

    private void step(String condition, Closure body) {
        Build.say("[post: ${condition}]")
        try {
            Build.run(body, new Steps())
        } catch (StepFailed e) {
            Build.say("ERROR: ${e.message}")
            Build.result = 'FAILURE'
        }
    }
}

class Stages {
    private String path

    Stages(String path) { this.path = path }

    void stage(String name, Closure body) {
        String full = path ? "${path} / ${name}" : name
        if (Build.result != 'SUCCESS') {
            Build.say("[stage ${full}] skipped due to earlier failure(s)")
            return
        }
        Build.say("[stage ${full}]")
        Build.run(body, new Stage(full))
    }
}

class Stage {
    private String path
    private boolean failed = false

    Stage(String path) { this.path = path }

    void steps(Closure body) {
        try {
            Build.run(body, new Steps())
        } catch (StepFailed e) {
            Build.say("ERROR: ${e.message}")
            Build.result = 'FAILURE'
            failed = true
        }
    }

    void stages(Closure body) {
        Build.run(body, new Stages(path))
        failed = Build.result != 'SUCCESS'
    }

    void environment(Closure body) { Build.run(body, new Environment()) }
    void post(Closure body) { Build.run(body, new Post(failed)) }
}

class Pipeline {
    final String any = 'any'

    void agent(String which) {}
    void options(Closure body) { Build.run(body, new Options()) }
    void environment(Closure body) { Build.run(body, new Environment()) }
    void stages(Closure body) { Build.run(body, new Stages('')) }
    void post(Closure body) { Build.run(body, new Post(Build.result != 'SUCCESS')) }
}

abstract class Declarative extends Script {
    Map<String, String> getEnv() { Build.env }
    void pipeline(Closure body) { Build.run(body, new Pipeline()) }
}

def configuration = new org.codehaus.groovy.control.CompilerConfiguration()
configuration.scriptBaseClass = Declarative.name
new GroovyShell(this.class.classLoader, new Binding(), configuration).parse(new File(args[0])).run()
Build.say("Finished: ${Build.result}")
System.exit(Build.result == 'SUCCESS' ? 0 : 1)
